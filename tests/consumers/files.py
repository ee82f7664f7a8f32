"""The files of deploy/ as the programs read them, with their arguments filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def load(name: str) -> dict[str, Any]:
    """Return the one document of a file."""
    return dict(yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8")))


def filled(value: Any, arguments: dict[str, str]) -> Any:
    """Return `value` with every `{{args.NAME}}` replaced, as Argo does before a run."""
    if isinstance(value, dict):
        return {key: filled(item, arguments) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, arguments) for item in value]
    if not isinstance(value, str):
        return value
    for name, text in arguments.items():
        value = value.replace(f"{{{{args.{name}}}}}", text)
    assert "{{args." not in value, f"an argument is not declared: {value}"
    return value


def argo_metric(name: str, **arguments: str) -> dict[str, Any]:
    """Return the one metric of an AnalysisTemplate; every argument it declares is given, and no other."""
    spec = load(f"argo-rollouts/{name}")["spec"]
    assert {argument["name"] for argument in spec["args"]} == arguments.keys()
    (metric,) = spec["metrics"]
    return dict(filled(metric, arguments))
