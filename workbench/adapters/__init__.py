"""Folders of LoRA adapters, made here or by any tool that saves in PEFT's format.

`adapter_folder` reads a folder and refuses what cannot be scored as it was trained,
`lora_settings` judges its configuration, `weights_header` its tensors' names and shapes, and
`base_names` says whether two names mean the same base. Called by the commands, the scheduler and
training; imports `recipe`, `text` and `errors`, and no trainer: nothing in a folder is executed.
"""
