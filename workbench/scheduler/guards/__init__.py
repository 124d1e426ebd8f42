"""Guards that protect the machine: heat, other people's programs, failing cards, a full disk.

`card_guards` and `disk` run at the start of each tick; they and `start_gap` are asked by `place`, `reconcile` and
`recover`; `energy` computes what a card drew. They read the store and the user's [guards], and
import neither the fleet's implementations nor a front end. docs/guards.md is for users.
"""
