"""Incidents: alerts, violations and rollbacks that belong together, told in order."""
