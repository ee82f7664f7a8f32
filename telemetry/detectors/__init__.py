"""Detectors: one class of check each, one file each. What each sees and cannot see stands at the top of its file."""
