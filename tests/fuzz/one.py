"""`python -m tests.fuzz.one TARGET [libFuzzer's options and corpora]`: fuzz one target in this process, until libFuzzer ends it."""

from __future__ import annotations

import sys


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["isolation_monitor"]):
        from tests.fuzz.targets import TARGETS

    name = sys.argv[1]
    take = atheris.instrument_func(_planted) if name == "planted" else TARGETS[name].take
    atheris.Setup([sys.argv[0], *sys.argv[2:]], take)
    atheris.Fuzz()


def _planted(data: bytes) -> None:
    """Fail where the others may not: a run that does not find it would find nothing."""
    if len(data) > 3 and data[0] == 0x7B:  # noqa: SIM102 - a step at a time, as code has it
        if data[1] == 0x3C:  # noqa: SIM102
            if data[2] == 0x7E:
                raise RuntimeError("found what was planted")


if __name__ == "__main__":
    main()
