"""The operating system and its hardware: everything that reads or changes the machine.

Cards and the driver (`cards`, `nvml`, `sampler`, `xid`, `attention`), memory and cores
(`resources`), the last day of each card (`history`), processes and locks (`processes`,
`head_watch`, `locks`), durable files and folders (`files`, `staging`, `reserve_file`). Every part
above may call it. It may import `workbench.text`, `workbench.errors` and `workbench.fault_points`,
and it is the only one that imports pynvml.
"""
