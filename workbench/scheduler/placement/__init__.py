"""Parts of placement: which queued trial goes first, which card it gets, and why one waits.

`unequal_cards` orders an experiment's trials by size, `near_bases` orders the free cards for one
trial, and `wait_reasons` says in words what cards and trials wait for. `place` calls them; they
read the store and write nothing.
"""
