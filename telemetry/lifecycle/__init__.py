"""Start-up, health and clean-up of an application: what `monitor.lifecycle` is made of (docs/lifecycle.md)."""
