"""What a validation comes to: one verdict with its reasons, the hash of its content, and a signature where there is a key."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.cli.collector_client import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from isolation_monitor.cli.validation_journal import Journal, Plan

SCHEMA: Final = "validation/1"
VERDICTS: Final = ("fail", "error", "inconclusive", "pass")
"""Gravest first: the verdict is that of the gravest finding."""
SIGHT_PERCENT: Final = 90
"""Share of the looks at the gate that must have seen something."""
MISSED_PERCENT: Final = 5
"""Share of a detector's planted faults that it may miss: it is grey then and was planted again, and pages if it goes on."""

Json = dict[str, Any]  # Any: JSON


def report_of(journal: Journal) -> Json:
    """Return the report (`validation/1`) on what a journal holds, without hash and signature."""
    plan = journal.plan
    gates = [entry for entry in journal.entries if entry["kind"] == "gate"]
    drills = [entry for entry in journal.entries if entry["kind"] == "drill"]
    loads = [entry for entry in journal.entries if entry["kind"] == "load"]
    faults = next((entry["faults"] for entry in reversed(journal.entries) if entry["kind"] == "faults"), None)
    findings = [*_of_gates(plan, journal.observed_s, gates), *_of_faults(faults), *_of_drills(plan, drills), *_of_load(loads)]
    verdict = next((one for one in VERDICTS if any(finding["verdict"] == one for finding in findings)), "pass")
    return {
        "schema": SCHEMA,
        "run": journal.run,
        "service": plan.service,
        "verdict": verdict,
        "reasons": sorted(findings, key=lambda finding: VERDICTS.index(finding["verdict"])),
        "started_at": journal.started_at,
        "ended_at": journal.entries[-1]["at"] if journal.entries else journal.started_at,
        "wanted_s": plan.for_s,
        "observed_s": round(journal.observed_s, 1),
        "restarts": sum(entry["kind"] == "resumed" for entry in journal.entries),
        "gate": {
            "looks": len(gates),
            "by_verdict": {one: sum(entry["verdict"] == one for entry in gates) for one in VERDICTS},
            "latest": gates[-1] if gates else None,
        },
        "planted_faults": faults or {},
        "drills": drills,
        "load": {"command": plan.load, "ends": loads},
        "plan": asdict(plan),
    }


def _of_gates(plan: Plan, observed_s: float, gates: list[Json]) -> list[Json]:
    found = []
    if failed := next((entry for entry in gates if entry["verdict"] == "fail"), None):
        found.append(_finding("fail", "gate", f"the gate failed at {failed['at']}: {failed['why']}"))
    elif observed_s < plan.for_s:
        found.append(_finding("inconclusive", "time", f"seen for {observed_s:.0f} s of {plan.for_s:.0f} s"))
    seen = sum(entry["verdict"] != "error" for entry in gates)
    if seen * 100 < SIGHT_PERCENT * len(gates):
        last = next(entry for entry in reversed(gates) if entry["verdict"] == "error")
        found.append(_finding("error", "gate", f"{len(gates) - seen} of {len(gates)} looks saw nothing: {last['why']}"))
    elif not gates:
        found.append(_finding("error", "gate", "the gate was never asked"))
    elif gates[-1]["verdict"] != "pass" and not failed:
        found.append(_finding("inconclusive", "gate", f"the gate's last word is {gates[-1]['verdict']}: {gates[-1]['why']}"))
    return found


def _of_faults(faults: Json | None) -> list[Json]:
    if not faults:
        return [
            _finding("error", "planted faults", "Prometheus has no planted faults of this service: nothing proves that harm would be seen")
        ]
    found = []
    for detector, counts in sorted(faults.items()):
        seen, missed = counts.get("seen", 0), counts.get("missed", 0)
        if missed and (not seen or missed * 100 > MISSED_PERCENT * (seen + missed)):
            found.append(_finding("fail", "planted faults", f"{detector} missed {missed} of {seen + missed} planted faults"))
    return found


def _of_drills(plan: Plan, drills: list[Json]) -> list[Json]:
    if plan.drill_every_s is None:
        return []
    if not any(entry["arrived"] is not None for entry in drills):
        return [_finding("error", "drills", "no drill came to its end" + (f": {drills[-1]['why']}" if drills else ""))]
    return [
        _finding("fail", "drills", f"at {entry['at']} no notification of {', '.join(entry['missed'])} arrived in time")
        for entry in drills
        if entry["missed"]
    ]


def _of_load(loads: list[Json]) -> list[Json]:
    return [_finding("inconclusive", "load", f"the load ended with {entry['exit_code']} at {entry['at']}") for entry in loads[:3]]


def _finding(verdict: str, about: str, detail: str) -> Json:
    return {"verdict": verdict, "about": about, "detail": detail}


# --- hash and signature -----------------------------------------------------------------------------------------------


def content_hash(report: Json) -> str:
    """Return SHA-256 over a report's content: sorted keys, no blanks, without `content_sha256` and `signature`."""
    content = {key: value for key, value in report.items() if key not in ("content_sha256", "signature")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def sealed(report: Json, key: Path | None) -> Json:
    """Return the report with its hash, and with an Ed25519 signature of that hash where there is a key.

    Raises:
        UsageError: the key cannot be used.
    """
    digest = content_hash(report)
    whole = {**report, "content_sha256": digest}
    if key is not None:
        private = private_key(key)
        whole["signature"] = {
            "algorithm": "Ed25519",
            "public_key": _base64(private.public_key().public_bytes_raw()),
            "value": _base64(private.sign(digest.encode())),
        }
    return whole


def problems_of(report: Json, public: Path | None) -> list[str]:
    """Return what is wrong with a report's hash and signature; nothing where both hold.

    Args:
        public: whose signature it must be; None takes the key that the report itself names.

    Raises:
        UsageError: the key cannot be used.
    """
    digest = content_hash(report)
    if digest != report.get("content_sha256"):
        return [f"its content is not what it was made of: the hash is {digest}, it says {report.get('content_sha256')}"]
    signature = report.get("signature")
    if signature is None:
        return ["it has no signature"] if public is not None else []
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise UsageError("checking a signature needs cryptography: install 'isolation-monitor[sign]'") from None
    try:
        named = Ed25519PublicKey.from_public_bytes(base64.b64decode(signature["public_key"], validate=True))
        (_public_key(public) if public is not None else named).verify(base64.b64decode(signature["value"], validate=True), digest.encode())
    except (InvalidSignature, ValueError, KeyError, TypeError):
        return ["its signature is not by that key" if public is not None else "its signature does not hold"]
    return []


def private_key(file: Path) -> Ed25519PrivateKey:
    """Return the private key in a PEM file without a password: `openssl genpkey -algorithm ed25519 -out FILE`.

    Raises:
        UsageError: it is none.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        raise UsageError("signing needs cryptography: install 'isolation-monitor[sign]'") from None
    try:
        found = load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{file} is no private key without a password ({error}): openssl genpkey -algorithm ed25519 -out FILE") from None
    if not isinstance(found, Ed25519PrivateKey):
        raise UsageError(f"{file} is a key of another kind: openssl genpkey -algorithm ed25519 -out FILE")
    return found


def _public_key(file: Path) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        found = load_pem_public_key(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is no public key ({error}): openssl pkey -in KEY -pubout -out FILE") from None
    if not isinstance(found, Ed25519PublicKey):
        raise UsageError(f"{file} is a key of another kind than Ed25519")
    return found


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
