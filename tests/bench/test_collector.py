"""The collector's benchmark in a short form: every row is measured, and what it sends is what it says it sends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import collector
from isolation_monitor.collector.clock import utc_now
from isolation_monitor.collector.evidence.schemas import parse_batch


def test_the_records_that_are_sent_are_taken_and_as_large_as_the_page_says() -> None:
    sent = collector.Batches("token")

    bodies = [sent.next().partition(b"\r\n\r\n")[2] for _ in range(3)]
    parsed = [parse_batch(body, utc_now(), max_records=1000, max_record_bytes=65_536) for body in bodies]

    assert [len(batch) for batch in parsed] == [collector.BATCH] * 3
    assert len({record.id for batch in parsed for record in batch.violations}) == 3 * collector.BATCH
    assert 400 <= sent.record_bytes <= 500


@pytest.mark.slow
def test_every_row_is_measured_on_a_real_collector(tmp_path: Path) -> None:
    output = tmp_path / "collector.json"

    collector.main(["--seconds", "1", "--stores", "sqlite", "--output", str(output), "--no-queries"])

    rows = {row["name"]: row for row in json.loads(output.read_text())["rows"]}
    assert (rows["sqlite ingest"]["budget"], rows["sqlite rss at overload"]["budget"]) == (10_000, 256)
    assert all(row["value"] > 0 for row in rows.values())
    assert "no-op ceiling" in rows
