"""Rollouts: what is being rolled out, since when, and what its gate asks for."""
