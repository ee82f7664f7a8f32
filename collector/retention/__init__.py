"""Retention: what is kept how long, what makes room, and when nothing more is taken."""
