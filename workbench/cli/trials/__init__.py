"""Commands about experiments and trials: list, follow, steer, compare, evaluate, chat.

Each module holds the commands of one purpose; `cli.app` registers them. They read through
`workbench.service` and send requests through it. None imports torch, ray or textual.
"""
