"""Queues: whose are the deepest now, over all workers."""
