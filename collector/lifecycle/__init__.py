"""Starts and ends of processes: which phase hung and where, how long each took, what the clean-up left."""
