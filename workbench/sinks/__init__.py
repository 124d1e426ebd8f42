"""Sinks: metrics and scores of trials, copied to TensorBoard, trackio or Weights & Biases.

Each sink that the user's `config.toml` names is a child process of the engine's loop, which starts
it by name (`workbench.scheduler.children.sink_processes`). It reads the database every
`follower.LOOK_S` seconds and hands on what is new, so that neither training nor a tick waits for a
server. `follower` says what is new, and `tensorboard`, `trackio` and `wandb` pass it on; each
imports its own library, which none of our dependencies needs.

    python -m workbench.sinks NAME HOME SETTINGS
"""
