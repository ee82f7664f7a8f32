"""Delivery: the events of runs, from the application's hands to the user's connection."""
