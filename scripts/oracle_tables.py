"""Writes what gbstats and confseq say about the gates' sequences, for tests: neither installs beside our other packages.

Each runs in a virtual environment of its own, with Python 3.11 (`docs/gate-statistics.md` says what is in the way):

    python3.11 -m venv A && A/bin/pip install gbstats==0.8.0
    A/bin/python scripts/oracle_tables.py gbstats > tests/collector/oracles/gbstats.json

    python3.11 -m venv B && B/bin/pip install numpy pybind11 && B/bin/pip download --no-deps confseq==0.0.11
    # unpack confseq; g++ -std=c++14 -shared -fPIC $(B/bin/python -m pybind11 --includes) -I r_package/inst/include
    #   src/confseq/boundaries.cpp -o boundaries.so      (r_package holds the same header; Boost 1.74's headers are needed)
    PYTHONPATH=. B/bin/python scripts/oracle_tables.py confseq > tests/collector/oracles/confseq.json
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

Row = dict[str, float]

TUNING = 20
ALPHAS = (0.0005, 0.01, 0.0375, 0.05, 0.2)
BLOCKS = (2, 10, 20, 60, 500)
SHARES = (0.02, 0.1, 0.5, 0.9)
ERRORS = ((0, 0), (1, 0), (0, 7), (20, 3), (40, 300), (250, 250))


def main(arguments: list[str]) -> int:
    """Print the table of one library; return 2 for another word."""
    tables: dict[str, Callable[[], dict[str, Any]]] = {"gbstats": gbstats, "confseq": confseq}
    if len(arguments) != 1 or arguments[0] not in tables:
        print("usage: oracle_tables.py gbstats | confseq", file=sys.stderr)
        return 2
    print(json.dumps({"library": arguments[0], **tables[arguments[0]]()}, indent=1))
    return 0


def gbstats() -> dict[str, Any]:
    """The half-width of the two-sided sequential test, of a spread of 1 and so many observations in all."""
    tests = importlib.import_module("gbstats.frequentist.tests")
    statistics = importlib.import_module("gbstats.models.statistics")

    def half_width(alpha: float, blocks: int) -> float:
        # Two halves of variance 1/4 have a difference whose variance, times all observations, is 1.
        half = blocks // 2
        arms = [statistics.SampleMeanStatistic(n=half, sum=float(half), sum_squares=half + (half - 1) / 4) for _ in range(2)]
        config = tests.SequentialConfig(difference_type="absolute", alpha=alpha, sequential_tuning_parameter=TUNING)
        low, high = tests.SequentialTwoSidedTTest(*arms, config).confidence_interval
        return float(high - low) / 2

    rows = [{"alpha": alpha, "blocks": n, "half_width": half_width(alpha, n)} for alpha in ALPHAS for n in BLOCKS if n >= 4]
    return {"version": metadata.version("gbstats"), "two_sided": rows}


def confseq() -> dict[str, Any]:
    """The one-sided normal mixture's exact boundary of a sum, and the evidence of a beta-binomial mixture."""
    boundaries = importlib.import_module("boundaries")
    bounds = [
        {"alpha": alpha, "blocks": n, "bound": float(boundaries.normal_mixture_bound(n, alpha, TUNING, alpha, True))}
        for alpha in ALPHAS
        for n in BLOCKS
    ]

    def evidence(share: float, canary: int, control: int) -> float:
        # In its terms a hit counts 1 - share and a miss -share; five times their product makes a mixture of weight 4.
        spread = share * (1 - share)
        optimum = 5 * spread * (2 * math.log(1 / 0.05) + math.log(1 + 2 * math.log(1 / 0.05)))
        moved, time = canary * (1 - share) - control * share, (canary + control) * spread
        return float(boundaries.beta_binomial_log_mixture(moved, time, optimum, share, 1 - share, 0.05, False))

    splits: list[Row] = [
        {"share": share, "canary": canary, "control": control, "log_evidence": evidence(share, canary, control)}
        for share in SHARES
        for canary, control in ERRORS
    ]
    return {"version": "0.0.11", "one_sided": bounds, "splits": splits}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
