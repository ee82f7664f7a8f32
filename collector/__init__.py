"""The collector keeps evidence, receives alerts and answers gates: `uvicorn --factory isolation_monitor.collector.app:create_app`."""
