"""Guards that protect the machine: heat, other people's programs, failing cards, a full disk.

`card_guards` and `disk` run at the start of each tick; `place`, `reconcile` and `recover` ask them
and `start_gap`. `idle_programs` tells which programs leave their card to others, `energy` what a
card drew. They read the store and the user's [guards], and import neither the fleet's
implementations nor a front end. docs/guards.md is for users.
"""
