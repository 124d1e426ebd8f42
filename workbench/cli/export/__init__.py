"""Commands that take an adapter out of the workbench.

They are merge, gguf, vllm, soup, push and export-recipe.

`workbench.cli.app` registers them. Slow work runs in child processes by module name, because these
modules import torch.
"""
