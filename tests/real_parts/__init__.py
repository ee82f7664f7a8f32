"""Starters of the real programs that tests run against. Each process ends with its `with` block."""
