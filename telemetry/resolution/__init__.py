"""Resolution: from the id of a run to the thread that it belongs to, and whose that is (docs/ids.md).

`sql_registry.SqlRegistry` is imported from its own module: this package loads no database library.
"""

from isolation_monitor.telemetry.resolution.ownership import Resolved
from isolation_monitor.telemetry.resolution.patterns import Patterns
from isolation_monitor.telemetry.resolution.registry import Entry, MemoryRegistry, Registry
from isolation_monitor.telemetry.resolution.resolver import Resolver
from isolation_monitor.telemetry.resolution.run_ids import RunId, RunIds, parse_run_id

__all__ = ["Entry", "MemoryRegistry", "Patterns", "Registry", "Resolved", "Resolver", "RunId", "RunIds", "parse_run_id"]
