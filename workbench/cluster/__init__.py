"""Several machines as one cluster: which files say so, which addresses and ports are used.

`settings` reads and writes the files of a head and of a joined box, `addresses` tells private from
public ones, `ray_commands` has the command lines and the ports, `certificates` makes what Ray's TLS
needs. Nothing here imports ray. The keeper, the node's keeper and the commands call it;
`workbench.fleet.boxes` moves the files.
"""
