"""The store: engine, tables, schema version. Features reach it through their `repository.py` only."""
