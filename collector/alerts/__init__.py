"""Alerts as Alertmanager delivers them: received, kept once, listed."""
