"""Scheduled health checks of the endpoints that the operator's file names."""
