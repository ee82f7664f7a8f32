"""Flags: the rules of rollouts for providers (`/v1/flags`), and evaluation from afar by OFREP (`/ofrep/v1`)."""
