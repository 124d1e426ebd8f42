"""Exports of the workbench: merged models, GGUF files, averages of adapters, training scripts.

`base_files` reads a base tensor by tensor, `changes` says what an adapter does to each, `merge`
writes the sum shard by shard and `agreement` compares it with base and adapter on real rows. The
commands start these modules as child processes, by name; `push` alone writes to a network. They
import training's model wing and the trainers, and know neither store, engine nor front ends.
"""
