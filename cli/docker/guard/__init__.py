"""Stops, restarts and removes containers gracefully, one at a time on each engine, and records every deed and refusal.

Scripts import `isolation_monitor.docker_guard`. Nothing is imported here: `isomon docker journal` needs no engine's library.
"""
