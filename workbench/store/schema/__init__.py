"""The database's schema: one SQL script for each version, and `migrations`, which runs them.

Script n takes a database from version n - 1 to n; a script that was released is never changed. Only
the store's writer calls `migrate`; imports `connection` and `recovery.backup`.
"""
