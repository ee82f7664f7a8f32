"""The collection: each module has a list `CASES`. Its applications know nothing of the monitor."""
