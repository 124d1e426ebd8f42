"""Boxes: the other machines of a cluster, with the files that travel to them and come home.

`agent` runs on a box and keeps its work folder: a mirror of the part of the head's home that its
trials need, over a cache of files by digest. `inputs` says which files an attempt needs, `courier`
moves them there and lands checkpoints, results and event lines at home, `carried` says how far each
attempt is. They know nothing of Ray: `ray_boxes` starts an agent on each node, and `cluster_fleet`
gives boxes' cards to the scheduler.
"""
