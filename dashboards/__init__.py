"""Dashboards as code: PromQL, panels and two dashboards, written to `generated/` as Grafana's classic JSON."""
