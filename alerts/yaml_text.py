"""Writing configurations as YAML that a person can read at night: in the given order, without anchors and aliases."""

from __future__ import annotations

from typing import Any

import yaml


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # Any: the signature of the library
        return True


def dump(tree: dict[str, Any]) -> str:
    """Return a tree of plain values as YAML; a mapping that is used twice is written twice."""
    return yaml.dump(tree, Dumper=_PlainDumper, sort_keys=False, width=140)
