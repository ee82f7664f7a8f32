"""A WebSocket client that lets the service know what arrived: `pip install isolation-monitor[client]`.

>>> from isolation_monitor.client import DeliveryClient

It needs the `websockets` library and loads nothing of the server's side. `docs/delivery.md` tells how to use it.
"""

from isolation_monitor.client.connection import DeliveryClient
from isolation_monitor.client.receiver import Event, Report

__all__ = ["DeliveryClient", "Event", "Report"]
