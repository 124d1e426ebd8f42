"""Memory while training: the peak and the cap on the card, and room in the machine's own memory.

`worker`, `attempt` and `trial_run` use it, `step` the locked memory, and `model` the tables that
stay there. It may import `workbench.machine` and `workbench.training.control`; `card_memory` and
`host_memory` import no torch until it is needed.
"""
