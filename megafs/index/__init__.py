"""The index: SQLite, encrypted, synchronous; the only package that imports apsw."""
