"""Commands about this machine: its cards, its health, the engine, and repair of the database.

`cli.app` registers them. They ask `workbench.service`, `workbench.doctor` and, for repair,
`workbench.store`. None imports torch, ray or textual.
"""
