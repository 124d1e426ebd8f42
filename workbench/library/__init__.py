"""The library of adapters: tags and notes, sizes on disk, the trash, and what was made of them.

`inventory` lists the adapters of a home, `marks` keeps tags, notes and archived experiments, and
`exports` what was made of an adapter. `removal` decides what may be removed, `trash` moves it,
restores it and empties itself, `usage` counts bytes and `prunable` names files that no live trial
needs; `reproduction` compares a trial with one that ran again. The service and the commands call
it. It reads the store and writes files below the home, never the database; it imports no trainer.
"""
