"""Commands that take an adapter out of the workbench, beside `workbench merge`: gguf, vllm.

`workbench.cli.app` registers them. Slow work runs in child processes by module name, because these
modules import torch.
"""
