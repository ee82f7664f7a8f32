"""A picture of each dashboard with real numbers from a Prometheus, for people without a Grafana."""
