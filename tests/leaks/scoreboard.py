"""The scoreboard of the collection: what is seen with two lines, what with annotations, and what is blamed wrongly.

`python -m tests.leaks.scoreboard [--only NAME[,NAME]] [--json FILE] [--jobs N]`; exit code 0 only if the aims hold:
at least 70 % of the bugs seen with two lines, 95 % with the case's few declarations, no false alarm in any fixed twin
or clean service, and every bug proven to harm and every fixed twin proven not to.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.leaks import catalogue, harness
from tests.leaks.case import Case, Variant
from tests.leaks.harness import Run, Watch

TWO_LINES_AIM = 0.70
ANNOTATED_AIM = 0.95


def main() -> int:
    arguments = _arguments()
    wanted = [part for part in (arguments.only or "").split(",") if part]
    cases = [case for case in catalogue.all_cases() if not wanted or any(part in (case.name, case.family) for part in wanted)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(_row, cases))
    totals = _totals(rows)
    _print_table(rows, totals)
    if arguments.json:
        path = Path(arguments.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"totals": totals, "cases": rows}, indent=1) + "\n")
    return 0 if totals["aims_hold"] else 1


def _row(case: Case) -> dict[str, Any]:
    """Run one case in all its variants."""
    row: dict[str, Any] = {"name": case.name, "family": case.family, "expects": case.expects, "summary": case.summary}
    row |= {"limit": case.limit, "state": "ok", "two_lines": [], "annotated": [], "false_alarms": [], "other_kinds": []}
    if module := harness.missing(case):
        return row | {"state": f"skipped: {module} is not installed"}
    try:
        runs = _runs(case)
    except Exception as error:
        # One broken case must not hide the others; it counts as broken, and the aims do not hold.
        return row | {"state": f"broken: {type(error).__name__}: {error}"[:2000]}
    row["harm"] = {f"{v}/{w}": len(one.harm) for (v, w), one in runs.items()}
    row["proof"] = next((one.harm[0] for one in runs.values() if one.harm), None)
    if any(bool(one.harm) != (one.variant == "buggy") for one in runs.values()):
        row["state"] = "harm is not as it should be"
    fixed = [one for one in runs.values() if one.variant == "fixed"]
    row["false_alarms"] = [_short(alarm) for one in fixed for alarm in one.alarms]
    if not case.is_clean:
        two_lines = runs["buggy", "two-lines"]
        row["two_lines"] = two_lines.kinds(case.expects)
        row["annotated"] = (runs.get(("buggy", "annotated")) or two_lines).kinds(case.expects) or row["two_lines"]
        row["other_kinds"] = sorted({v["kind"] for v in two_lines.violations if v not in two_lines.detected(case.expects)})
        row["evidence"] = [_short(v) for v in two_lines.detected(case.expects)[:3]]
    row["checks"] = _checks([one for one in runs.values() if one.watch == "two-lines"])
    return row


def _runs(case: Case) -> dict[tuple[Variant, Watch], Run]:
    """Run what must be run: the annotated service only where two lines do not see the bug, as a user would."""
    runs: dict[tuple[Variant, Watch], Run] = {(v, w): harness.run(case, v, w) for v in case.variants for w in ("off", "two-lines")}
    if case.declarations and not runs["buggy", "two-lines"].detected(case.expects):
        runs |= {(v, "annotated"): harness.run(case, v, "annotated") for v in case.variants}
    return runs


def _short(violation: dict[str, Any]) -> dict[str, Any]:
    def last_line(side: dict[str, Any] | None) -> str | None:
        return side["stack"][-1] if side and side["stack"] else None

    short = {name: violation[name] for name in ("kind", "grade", "summary", "count", "resource")}
    return {**short, "victim_at": last_line(violation["victim"]), "offender_at": last_line(violation["offender"])}


def _checks(runs: list[Run]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for one in runs:
        for detector, results in one.checks.items():
            counts = total.setdefault(detector, {})
            for result, count in results.items():
                counts[result] = counts.get(result, 0) + count
    return total


def _totals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    bugs = [row for row in rows if row["family"] != "clean" and not row["state"].startswith("skipped")]
    seen, annotated = sum(bool(row["two_lines"]) for row in bugs), sum(bool(row["annotated"]) for row in bugs)
    blamed = [row["name"] for row in rows if row["false_alarms"]]
    unsound = [row["name"] for row in rows if row["state"] != "ok" and not row["state"].startswith("skipped")]
    return {
        "bugs": len(bugs),
        "clean": sum(row["family"] == "clean" for row in rows),
        "two_lines": seen,
        "annotated": annotated,
        "falsely_blamed": blamed,
        "unsound": unsound,
        "aims_hold": seen >= TWO_LINES_AIM * len(bugs) and annotated >= ANNOTATED_AIM * len(bugs) and not blamed and not unsound,
    }


def _print_table(rows: list[dict[str, Any]], totals: dict[str, Any]) -> None:
    print(f"{'case':<34} {'harm':>5}  {'two lines':<46} {'annotated':<30} false alarms")
    for row in rows:
        if row["family"] == "clean":
            two_lines = annotated = "-"
        else:
            two_lines = ", ".join(row["two_lines"]) or ("MISSED (limit)" if row["limit"] else "MISSED")
            annotated = "" if row["annotated"] == row["two_lines"] else ", ".join(row["annotated"])
        alarms = ", ".join(sorted({f"{a['kind']}:{a['grade']}" for a in row["false_alarms"]})) or "-"
        harm = max(row.get("harm", {"": 0}).values())
        print(f"{row['name']:<34} {harm:>5}  {two_lines:<46} {annotated:<30} {alarms}")
        if row["state"] != "ok":
            print(f"    {row['state']} {row.get('harm', '')}")
        for alarm in row["false_alarms"][:3]:
            print(f"    blamed: {alarm['summary']} [{alarm['resource']['name']}]")
    bugs = max(1, totals["bugs"])
    print(
        f"\n{totals['bugs']} bugs, {totals['clean']} clean services: two lines {totals['two_lines']} ({totals['two_lines'] / bugs:.0%}), "
        f"annotated {totals['annotated']} ({totals['annotated'] / bugs:.0%}), falsely blamed {len(totals['falsely_blamed'])}, "
        f"unsound {len(totals['unsound'])}: the aims {'hold' if totals['aims_hold'] else 'do not hold'}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="names or families, comma-separated")
    parser.add_argument("--json", nargs="?", const="build/leaks.json", help="write the findings as JSON")
    parser.add_argument("--jobs", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
