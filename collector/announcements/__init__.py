"""Announcements: what rollouts do, told where people look: marks in Grafana's graphs, and one page to whoever is on call."""
