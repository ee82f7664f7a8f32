"""Records on their way to the collector."""
