"""`isomon docker`: a guard for scripts and CI that stops and removes containers gracefully, and an audit that finds who does not."""
