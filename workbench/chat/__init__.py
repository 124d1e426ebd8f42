"""A chat with adapters: the files through which a person and a card's worker talk.

`session_files` is the format, which the worker (`training.evaluation.chat_run`) and the front ends
share; `client` asks and reads the answers as they are generated. Imports `machine`, `text` and
`errors`, and `client` the service too.
"""
