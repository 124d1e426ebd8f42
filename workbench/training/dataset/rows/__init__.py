"""The columns of one row of a data file, as the text or the turns that they hold.

`shapes` names the shapes of data and reads them, `row_turns` reads chats, `tools` the tools and
calls in them, and `fields` reports columns and keys that are neither used nor known to be harmless.
The other modules of `dataset` use it. It may import `dataset.files`, and nothing else of training.
"""
