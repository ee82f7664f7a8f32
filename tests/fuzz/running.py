"""Running one target in a process of its own: libFuzzer ends the process it runs in."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from tests.fuzz.targets import RECORDS, TARGETS

ROOT: Final = Path(__file__).resolve().parent.parent.parent
_HANG_S: Final = 25
_RSS_MIB: Final = 1_500
_LONGEST: Final = 6_000


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """What became of a run. `found` holds the inputs that the target did not take; `said` ends with why."""

    is_clean: bool
    runs: int
    features: int
    said: str
    found: Path


def fuzz(name: str, folder: Path, *options: str, seconds: float) -> Fuzzed:
    """Fuzz a target, beginning with its seeds and what earlier runs left in `folder`; at most `seconds`."""
    corpus, found = folder / "corpus" / name, folder / "found" / name
    for one in (corpus, found):
        one.mkdir(parents=True, exist_ok=True)
    target = TARGETS.get(name)
    for seed in target.seeds() if target else [RECORDS]:
        (corpus / sha256(seed).hexdigest()[:16]).write_bytes(seed)
    words = folder / f"{name}.dict"
    known = target.words if target else ()
    # An empty file is refused.
    words.write_text("# words\n" + "".join(f'"{_escaped(word)}"\n' for word in known or ("\0",)), encoding="utf-8")
    command = [
        *(sys.executable, "-W", "ignore", "-m", "tests.fuzz.one", name, str(corpus), f"-artifact_prefix={found}/", f"-dict={words}"),
        *(f"-timeout={_HANG_S}", f"-rss_limit_mb={_RSS_MIB}", f"-max_len={_LONGEST}", "-print_final_stats=1", *options),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    said = done.stdout + done.stderr
    runs = re.search(r"number_of_executed_units:\s*(\d+)", said)
    features = re.findall(r"\bft: (\d+)", said)
    # Of an exception it says first what it was, of a hang or too much memory only what libFuzzer saw.
    places = [at for mark in ("Uncaught Python exception", "ERROR: libFuzzer") if (at := said.find(mark)) >= 0]
    why = said[min(places) :][:4_000] if places else said[-4_000:]
    return Fuzzed(done.returncode == 0, int(runs[1]) if runs else 0, int(features[-1]) if features else 0, why, found)


def _escaped(word: str) -> str:
    return "".join(char if char.isascii() and char.isprintable() and char not in '"\\' else f"\\x{ord(char):02x}" for char in word)
