"""A rollout's YAML file: what it may say, and that each mistake is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from isolation_monitor.cli.collector_client import UsageError
from isolation_monitor.cli.rollout_file import read_file
from isolation_monitor.collector.gates import domain as gates
from isolation_monitor.collector.rollouts.spec import TRIGGERS, ZERO_TOLERANCE, Minimum

WHOLE = """\
rollout: checkout-v2
service: chat
internal_users: {attribute: email_domain, in: [example.com]}
holdback_percent: 5
minimum: {exposed_requests: 1000}
stages:
  - name: internal
    kind: internal
    soak: 10m
  - name: canary
    percent: 2.5
    soak: 1h
    triggers: [isolation, delivery]
    minimum: {exposed_requests: 50, owed_events: 7}
  - {name: full, percent: 100, soak: 1d, advance: manual}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "rollout.yml"
    file.write_text(text)
    return file


def mistakes(folder: Path, text: str) -> str:
    file = write(folder, text)
    with pytest.raises(UsageError) as caught:
        read_file(file)
    return str(caught.value).replace(f"{file}:", "")


def test_a_whole_file_says_what_each_stage_asks_for(tmp_path: Path) -> None:
    spec = read_file(write(tmp_path, WHOLE))

    internal, canary, full = spec.stages
    assert (spec.rollout, spec.service, spec.holdback_percent) == ("checkout-v2", "chat", 5.0)
    assert spec.internal_users == {"attribute": "email_domain", "in": ["example.com"]}
    assert (internal.kind, internal.percent, internal.soak_s, internal.triggers) == ("internal", 0.0, 600.0, ZERO_TOLERANCE)
    assert internal.minimum == Minimum(1000, 0)
    assert (canary.percent, canary.soak_s, canary.triggers, canary.minimum) == (2.5, 3600.0, ("isolation", "delivery"), Minimum(50, 7))
    assert (full.percent, full.soak_s, full.advance, full.minimum) == (100.0, 86400.0, "manual", Minimum(1000, 100))


def test_two_lines_are_enough_and_bring_the_usual_ladder(tmp_path: Path) -> None:
    short = read_file(write(tmp_path, "rollout: r\nservice: chat\n"))
    with_friends = read_file(write(tmp_path, "rollout: r\nservice: chat\ninternal_users: [ann, bob]\n"))

    assert [(stage.name, stage.percent) for stage in short.stages] == [("canary10", 10), ("half", 50), ("full", 100)]
    assert [stage.name for stage in with_friends.stages] == ["internal", "canary10", "half", "full"]
    assert with_friends.internal_users == ("ann", "bob")
    assert short.holdback_percent == 2.0


def test_the_gate_and_the_files_know_the_same_triggers() -> None:
    assert gates.TRIGGERS == TRIGGERS


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("percent: 2.5", "percent: 250"), "11: stages[1].percent: 250 is not within"),
        (("percent: 2.5", "percent: 2.55"), "11: stages[1].percent: 2.55 is finer than a tenth"),
        (("percent: 2.5", "percent: 10%"), "11: stages[1].percent: '10%' is no number"),
        (("percent: 2.5", "percent: .nan"), "11: stages[1].percent: nan is no number"),
        (("percent: 2.5", "percent: yes"), "11: stages[1].percent: true is no number"),
        (("percent: 100", "percent: 2"), "15: stages[2].percent: 2 does not grow"),
        (("percent: 100", "percent: 90"), "15: stages[2]: the last stage is not 100 percent"),
        (("soak: 1h", "soak: soon"), "12: stages[1].soak: 'soon' is no duration"),
        (("soak: 1h", "soak: 3600"), "12: stages[1].soak: 3600 is no duration"),
        (("name: canary", "name: off"), "10: stages[1].name: false is no text: put it in quotes"),
        (("name: canary", "name: 'off'"), "10: stages[1].name: 'off' is what comes before"),
        (("name: canary", "name: internal"), "10: stages[1].name: two stages are called 'internal'"),
        (("[isolation, delivery]", "[delivery]"), "13: stages[1].triggers: isolation is missing"),
        (("[isolation, delivery]", "[isolation, speed]"), "13: stages[1].triggers[1]: 'speed' is no trigger"),
        (("kind: internal", "kind: internal\n    triggers: [isolation, latency]"), "9: stages[0].triggers: latency: an internal stage"),
        (("soak: 1h", "soack: 1h"), "12: stages[1].soack: 'soack' is not known here"),
        (("owed_events: 7", "owed_events: -7"), "14: stages[1].minimum.owed_events: -7 is no whole number"),
        (("holdback_percent: 5", "holdback_percent: 0.5"), "4: holdback_percent: 0.5 is not within 1 to 20"),
        (
            ("holdback_percent: 5", "holdback_percent: 0"),
            "4: holdback_percent: 0 leaves nobody to compare with at 100 %: promise slo_error_p",
        ),
        (("holdback_percent: 5", "holdback_percent: no"), "4: holdback_percent: false is no number"),
        (("holdback_percent: 5", "slo_p95_s: 0.4"), "4: slo_p95_s: it is judged only where nobody is held back"),
        (("holdback_percent: 5", "watch_after_completion: 60d"), "4: watch_after_completion: '60d' is too long: at most 30d"),
        (("holdback_percent: 5", "watch_after_completion: always"), "4: watch_after_completion: 'always' is no duration"),
        (("service: chat\n", ""), "1: the file: service is missing"),
        (("service: chat", "service: 42"), "2: service: 42 is no text"),
        (("checkout-v2", "checkout v2"), "1: rollout: 'checkout v2' does not fit"),
        (("[example.com]", "[]"), "3: internal_users.in: [] is not a list of values"),
        ((", in: [example.com]", ""), "3: internal_users: in is missing"),
        (("internal_users: {attribute: email_domain, in: [example.com]}\n", ""), "6: stages[0]: an internal stage needs internal_users"),
        (("advance: manual", "advance: maybe"), "15: stages[2].advance: 'maybe' is not known"),
        (("service: chat\n", "service: chat\nservice: shop\n"), "3: 'service' stands there twice"),
        (("stages:", "stages: ["), "7: is no YAML"),
        (("stages:", "\tstages:"), "6: is no YAML"),
        (("rollout: checkout-v2", "rollout: !!python/object:os.system x"), "1: is no YAML: could not determine a constructor"),
    ],
)
def test_each_mistake_is_named_with_its_line_and_what_to_write(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    assert change[0] in WHOLE

    assert expected in mistakes(tmp_path, WHOLE.replace(*change))


@pytest.mark.parametrize(
    ("promises", "expected"),
    [
        ("slo_error_percent: 1, slo_p95_s: 0.45", ""),
        ("slo_error_percent: 1, triggers: [isolation, error_rate]", ""),
        ("triggers: [isolation, cascade]", ""),
        ("slo_error_percent: 1", "promise slo_p95_s, leave latency out"),
        ("slo_error_percent: 0, slo_p95_s: 0.45", "slo_error_percent: 0 is not within 0.01 to 50"),
        ("slo_error_percent: 1 %, slo_p95_s: 0.45", "slo_error_percent: '1 %' is no number"),
        ("slo_error_percent: 1, slo_p95_s: 450", "slo_p95_s: 450 is not within"),
        ("slo_error_percent: 1, slo_p95_s: .nan", "slo_p95_s: nan is no number"),
    ],
)
def test_without_a_holdback_each_trigger_that_compares_needs_its_promise(tmp_path: Path, promises: str, expected: str) -> None:
    text = f"{{rollout: r, service: chat, holdback_percent: 0, {promises}}}\n"
    if expected:
        assert expected in mistakes(tmp_path, text)
        return
    spec = read_file(write(tmp_path, text))

    assert spec.holdback_percent == 0
    assert (spec.slo_error_percent is not None) == ("slo_error_percent" in promises)
    assert spec.slo_p95_s == (0.45 if "slo_p95_s" in promises else None)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    told = mistakes(
        tmp_path, WHOLE.replace("percent: 2.5", "percent: x").replace("soak: 10m", "soak: x").replace("holdback_percent: 5", "a: 5")
    )

    assert [line.split(":")[0] for line in told.splitlines()] == ["4", "9", "11"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "just words\n", "--- {}\n--- {}\n", "{a: &a [1], <<: *a}\n", "? [a]\n: b\n"])
def test_what_is_no_rollout_at_all_is_refused_with_a_line(tmp_path: Path, text: str) -> None:
    assert mistakes(tmp_path, text)[0].isdigit()


def test_a_small_file_that_unfolds_without_end_is_refused(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))

    assert "more than" in mistakes(tmp_path, bomb)


@pytest.mark.parametrize("letter", ["a", "ä", "𝄞"])
def test_a_file_may_have_256_kib_whatever_its_letters(tmp_path: Path, letter: str) -> None:
    """Measured in characters, a file of long letters was cut in the middle instead of refused."""
    head = "rollout: r\nservice: chat\n# "
    letters, rest = divmod(256 * 1024 - len(head), len(letter.encode()))
    whole = head + " " * rest + letter * letters

    assert read_file(write(tmp_path, whole)).rollout == "r"
    assert mistakes(tmp_path, whole + " ").strip() == "has 262145 bytes, and a rollout's file may have 262144: is it another file?"


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")

    for name in ("nothing", "binary"):
        with pytest.raises(UsageError, match=name):
            read_file(tmp_path / name)
