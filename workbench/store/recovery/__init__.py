"""Keeping the rows safe: finding damage, journal, daily backups, and rebuilding a lost database.

`damage` and `journal` are used whenever the database is opened; the engine makes a `backup` a day;
`repair`, with `salvage` below it, is `workbench repair`. `damage`, `journal` and `backup` import
nothing of the store but each other, `repair` and `salvage` may import all of it.
"""
