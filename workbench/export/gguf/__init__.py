"""GGUF files for llama.cpp and Ollama: of a merged model, and of an adapter alone.

`families` knows how each architecture's weights and settings are written, `vocabulary` writes
tokenizer, chat template and the tokens that end an answer, `write` makes a model's file and `lora`
an adapter's, and `read_back` compares a file with what it was made from. `chat_parts` takes a chat
template to pieces, of which `modelfile` makes Ollama's. The `gguf` package is an optional extra.
Started by the commands as `python -m workbench.export.gguf.write`.
"""
