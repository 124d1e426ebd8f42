"""Workers that are started before a trial needs them.

`warm_workers` starts them while an experiment is prepared, `spare_worker` keeps one that replaces
another. `place` and `tick` call them. Both ask the fleet, and wait for nothing.
"""
