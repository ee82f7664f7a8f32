"""Rule tests with the real promtool: input series and expectations in Python, many scenarios in one process."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus

from tests.real_parts.processes import binary

_LABEL: Final = re.compile(r"\{\{ \$labels\.(\w+) \| urlquery \}\}")


@dataclass(frozen=True)
class Firing:
    """One alert expected to fire: all of its labels, and all of its annotations but the links."""

    labels: dict[str, str]
    summary: str
    description: str


@dataclass(frozen=True)
class Scenario:
    """Input series `inputs` (one sample each `step_s` seconds, in promtool's notation) and what must hold at moments given in seconds.

    `firing` maps a moment to the alerts of `alert` that fire then, no more and no fewer; `samples` maps an expression
    and a moment to its samples (`{series text: value}`).
    """

    name: str
    inputs: dict[str, str]
    alert: str = ""
    firing: dict[int, Sequence[Firing]] = field(default_factory=dict)
    samples: dict[tuple[str, int], dict[str, float]] = field(default_factory=dict)
    every_s: int = 1
    step_s: int = 1

    def as_test(self, links: dict[str, dict[str, str]]) -> dict[str, Any]:
        """Return the test group; `links` are the link annotations expected of each alert, templates and all."""
        return {
            "name": self.name,
            "interval": f"{self.step_s}s",
            "input_series": [{"series": name, "values": values} for name, values in self.inputs.items()],
            "alert_rule_test": [
                {
                    "eval_time": f"{moment}s",
                    "alertname": self.alert,
                    "exp_alerts": [self._expected(alert, links[self.alert]) for alert in firing],
                }
                for moment, firing in self.firing.items()
            ],
            "promql_expr_test": [
                {
                    "expr": expression,
                    "eval_time": f"{moment}s",
                    "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
                }
                for (expression, moment), samples in self.samples.items()
            ],
        }

    @staticmethod
    def _expected(alert: Firing, links: dict[str, str]) -> dict[str, Any]:
        opened = {name: _LABEL.sub(lambda found: quote_plus(alert.labels[found[1]]), link) for name, link in links.items()}
        return {"exp_labels": alert.labels, "exp_annotations": {"summary": alert.summary, "description": alert.description, **opened}}


def series(metric: str, labels: dict[str, str]) -> str:
    """Return the text of one series: `name{label="value"}`."""
    return metric + "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def write_test(file: Path, rule_files: Iterable[Path], scenarios: Iterable[Scenario], links: dict[str, dict[str, str]]) -> Path:
    """Write one test file of promtool; all scenarios in it share one evaluation interval."""
    chosen, files = list(scenarios), list(rule_files)
    (every_s,) = {scenario.every_s for scenario in chosen}
    tree = {
        "rule_files": [str(rules) for rules in files],
        "evaluation_interval": f"{every_s}s",
        # Else promtool takes them in any order, and what one group makes of another's series comes an interval late.
        "group_eval_order": [name for rules in files for name in re.findall(r"^- name: (\S+)$", rules.read_text(), re.MULTILINE)],
        "tests": [scenario.as_test(links) for scenario in chosen],
    }
    # JSON is YAML, and written much faster.
    file.write_text(json.dumps(tree))
    return file


def run_tests(*files: Path) -> subprocess.CompletedProcess[str]:
    """Run promtool on test files; the exit code is 0 when all of them pass."""
    return subprocess.run([binary("promtool"), "test", "rules", *map(str, files)], capture_output=True, text=True, timeout=300)


def ramp(*segments: tuple[int, float], start: float = 0) -> str:
    """Return a counter in promtool's notation: for so many seconds it grows by so much a second, then by the next.

    >>> ramp((3, 1), (2, 0))
    '0+1x2 3+0x1'
    """
    parts, value = [], start
    for seconds, rate in segments:
        parts.append(f"{value:g}+{rate:g}x{seconds - 1}")
        value += seconds * rate
    return " ".join(parts)


def steps(every_s: int, until_s: int, skip: int = 0) -> str:
    """Return a counter that grows by 1 every so many seconds, but for each `skip`th time."""
    value, parts = 0, []
    for n in range(until_s // every_s):
        parts.append(f"{value}x{every_s - 1}")
        value += not skip or n % skip != 0
    return " ".join(parts)
