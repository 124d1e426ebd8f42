"""Memory while training: the peak and the cap on the card, and room in the machine's own memory.

`worker`, `attempt` and `trial_run` use it, and `step` and `model` the locked memory. It may import
`workbench.machine` and `workbench.training.control`; `card_memory` imports torch once it is asked.
"""
