"""What is opened without the API: health, the collector's metrics, runbooks."""
