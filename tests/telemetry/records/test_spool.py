"""The spool on a real disk: kept until it is answered for, by this process or the next; bounded; never in the host's way."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.telemetry import filelock
from isolation_monitor.telemetry.records import spool as spool_module
from isolation_monitor.telemetry.records import spool_file
from isolation_monitor.telemetry.records.batches import Batch, pack
from isolation_monitor.telemetry.records.gravity import HYGIENE
from isolation_monitor.telemetry.records.quiet_log import QuietLog
from isolation_monitor.telemetry.records.setup import make_outbox
from isolation_monitor.telemetry.records.spool import Spool
from isolation_monitor.telemetry.records.spool_file import SpoolFile
from isolation_monitor.telemetry.records.spool_folder import SpoolFolder
from isolation_monitor.telemetry.settings import load_settings
from tests.telemetry.records.receiving import held

CAP = 64 * 1024 * 1024


def records(*ids: object, grade: str = "crossed", **fields: object) -> list[dict[str, Any]]:
    return [{"type": "violation", "id": id, "grade": grade, **fields} for id in ids]


def packed(*ids: object, grade: str = "crossed", **fields: object) -> list[Batch]:
    return pack(records(*ids, grade=grade, **fields), "host:1", lambda error: None)


def big(id: object, grade: str = "crossed", size: int = 20_000, **fields: object) -> list[Batch]:
    """Return a batch of about `size` bytes: random text, because what repeats itself deflates to nothing."""
    return packed(id, **{"grade": grade, "text": os.urandom(size).hex(), **fields})


@pytest.fixture
def counts() -> Counter[str]:
    return Counter()


@pytest.fixture
def make(tmp_path: Path, counts: Counter[str]) -> Iterator[Callable[..., Spool]]:
    made: list[Spool] = []

    def open(service: str = "chat", cap: int = CAP, limit: int = 1000, base: Path | None = None) -> Spool:
        folder = SpoolFolder(str(base or tmp_path / "spool"), service)
        made.append(Spool(folder, cap, limit, lambda what, n: counts.update({what: n}), QuietLog()))
        return made[-1]

    yield open
    for one in made:
        one.close(5)


def drained(spool: Spool) -> list[Any]:
    """Take everything out, as a sender does whose collector answers 200; return the ids in the order in which they came."""
    ids = []
    while found := spool.next(set()):
        store, batch = found
        ids += [record["id"] for record in json.loads(batch.text())]
        spool.done(store, batch)
    return ids


def test_what_was_kept_comes_out_gravest_first_and_the_file_goes_with_the_last(make, counts, tmp_path) -> None:
    spool = make()

    assert spool.add(packed("run-like", grade="hygiene"))
    assert spool.add(packed("a", "b"))
    assert spool.add(packed("c", grade="reachable"))

    assert spool.records == 4
    assert drained(spool) == ["a", "b", "c", "run-like"]
    assert counts == {"spooled": 4}
    spool.close(5)
    assert list((tmp_path / "spool" / "chat").iterdir()) == []


def test_nobody_else_may_read_what_waits(make, tmp_path) -> None:
    spool = make()
    spool.add(packed("a"))

    folder = tmp_path / "spool" / "chat"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}


def test_the_next_process_sends_what_a_killed_one_left_under_its_name(make, tmp_path, counts) -> None:
    code = """
import os, signal, sys
sys.path.insert(0, os.getcwd())
from tests.telemetry.records.test_spool import packed, Spool, SpoolFolder, QuietLog
spool = Spool(SpoolFolder(sys.argv[1], "chat"), 1 << 20, 100, lambda what, n: None, QuietLog())
assert spool.add(packed("a", "b"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "spool")], check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr

    spool = make()

    assert drained(spool) == ["a", "b"]
    spool.close(5)
    assert list((tmp_path / "spool" / "chat").iterdir()) == [], "nothing is left of it"


def test_a_file_whose_process_lives_is_its_own(make, counts) -> None:
    living, other = make(), make()
    living.add(packed("a"))

    assert other.next(set()) is None
    living.close(5)
    other._adopt_at = 0.0
    assert drained(other) == ["a"], "it ended, so the other takes it over"


def test_another_service_s_records_are_not_ours(make) -> None:
    other = make("other")
    other.add(packed("a"))
    other.close(5)

    assert make("chat").next(set()) is None


def test_one_file_that_was_left_does_not_keep_new_records_waiting(make) -> None:
    before = make()
    for n in range(4):
        before.add(packed(f"old-{n}"))
    before.close(5)
    spool = make()
    for n in range(2):
        spool.add(packed(f"new-{n}"))

    assert drained(spool) == ["new-0", "old-0", "new-1", "old-1", "old-2", "old-3"]


def test_a_full_spool_gives_up_the_least_grave_first_and_what_crossed_last(make, counts) -> None:
    spool = make(cap=1_000_000)
    for n in range(60):
        spool.add(big(f"hygiene-{n}", grade="hygiene"))
    assert counts["spool_full"] > 0
    left_of_hygiene = spool.records

    for n in range(60):
        spool.add(big(f"crossed-{n}"))

    ids = drained(spool)
    assert 20 < left_of_hygiene < 60
    assert [id for id in ids if id.startswith("hygiene")] == []
    assert ids == [f"crossed-{n}" for n in range(len(ids))], "the first evidence stays, what comes when there is no room is dropped"
    assert counts["spool_full"] == 120 - len(ids)


def test_the_cap_is_for_all_processes_of_a_service_together(make, counts) -> None:
    first, second = make(cap=1_000_000), make(cap=1_000_000)
    for n in range(20):
        first.add(big(n))
    assert counts["spool_full"] == 0

    for n in range(30):
        second.add(big(n))

    assert counts["spool_full"] > 5


def test_what_a_process_left_makes_room_for_graver_records(make, counts) -> None:
    """And no more of it goes than the room that is needed."""
    before = make(cap=1_000_000)
    for n in range(30):
        before.add(big(f"hygiene-{n}", grade="hygiene"))
    before.close(5)
    spool = make(cap=1_000_000)
    _, sent = spool.next(set())
    assert sent.gravity == HYGIENE, "it was adopted"

    kept = [spool.add(big(f"crossed-{n}")) for n in range(40)]

    assert kept[:35] == [True] * 35
    assert kept.count(False) == counts["spool_full"] - 30, "and what was dropped beside the adopted is what came last"
    assert not [id for id in drained(spool) if id.startswith("hygiene")]


def test_one_grave_record_pushes_out_no_more_than_it_needs(make, counts, monkeypatch) -> None:
    monkeypatch.setattr(spool_file, "_EVICTED_AT_ONCE", 1)
    before = make(cap=1_000_000)
    for n in range(60):
        before.add(big(n, grade="hygiene"))
    before.close(5)
    spool = make(cap=780_000)
    spool.next(set())
    counts.clear()

    for n in range(3):
        assert spool.add(big(f"crossed-{n}"))

    assert counts == {"spooled": 3, "spool_full": pytest.approx(3, abs=2)}


def test_nothing_goes_for_a_record_that_finds_no_room_all_the_same(make, counts, monkeypatch) -> None:
    """Room that other processes have filled with what is as grave cannot be made here."""
    monkeypatch.setattr(spool_module, "_SIZES_FOR_S", -1.0)
    other, spool = make(cap=1_000_000), make(cap=1_000_000)
    spool.add(packed("hygiene", grade="hygiene"))
    for n in range(60):
        other.add(big(n))
    counts.clear()

    assert not spool.add(big("crossed"))

    assert +counts == {"spool_full": 1}
    assert drained(spool) == ["hygiene"]


def test_what_is_less_grave_leaves_room_whichever_process_finds_it(make, counts) -> None:
    """A process can drop only its own records: what another one has filled with runs must not cost a violation."""
    runs, hygiene, crossed = make(cap=20_000_000), make(cap=20_000_000), make(cap=20_000_000)
    (run,), (untidy,), (grave,) = big(0, type="run", size=400_000), big(0, grade="hygiene", size=400_000), big(0, size=400_000)
    for _ in range(50):
        runs.add([run])
    for _ in range(50):
        hygiene.add([untidy])

    assert [crossed.add([grave]) for _ in range(5)] == [True] * 5

    assert 18 < runs.records <= 25, "half of the cap"
    assert 27 < runs.records + hygiene.records <= 37, "three quarters of it"


def test_what_a_disk_that_failed_keeps_in_memory_is_not_counted_as_lost(make, counts, monkeypatch) -> None:
    spool = make(cap=1_000_000)
    spool.add(packed("a"))

    def full(batches: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(spool._own, "add", full)
    assert not spool.add([one for n in range(60) for one in big(n)])

    assert counts == {"spooled": 1, "unspooled": 60}
    assert len(drained(spool)) == 61


def test_room_comes_back_with_what_was_sent(make, tmp_path) -> None:
    spool = make()
    for n in range(40):
        spool.add(packed(n, text=os.urandom(200_000).hex()))
    full = spool.used_bytes

    drained(spool)

    assert spool.used_bytes < full / 20
    assert sum(path.stat().st_size for path in (tmp_path / "spool" / "chat").iterdir()) < full / 2


def test_a_damaged_file_is_set_aside_and_counted(make, counts, tmp_path) -> None:
    folder = tmp_path / "spool" / "chat"
    folder.mkdir(parents=True, mode=0o700)
    (folder / "1-0000abcd.spool").write_bytes(b"no database at all " * 1000)
    spool = make()

    assert spool.next(set()) is None
    assert counts["corrupt"] == 1
    assert [path.name for path in folder.iterdir() if "abcd" in path.name] == ["1-0000abcd.spool.corrupt"]
    assert spool.add(packed("a"))
    assert drained(spool) == ["a"]


def test_a_file_that_is_damaged_while_in_use_is_replaced(make, counts, tmp_path) -> None:
    spool = make()
    spool.add(packed("a"))
    assert spool._own is not None
    spool._own.release()
    spool._own.path.write_bytes(b"\xff" * 8192)
    spool._own.path.with_name(spool._own.path.name + "-wal").unlink(missing_ok=True)

    spool.add(packed("b"))

    assert counts["corrupt"] == 1
    assert spool.add(packed("c"))
    assert sorted(drained(spool)) == ["b", "c"], "only what was in the damaged file is lost"


def test_a_batch_that_the_disk_changed_is_given_up_and_the_others_go_on(make, counts) -> None:
    spool = make()
    for id in ("a", "b", "c"):
        spool.add(packed(id))
    spool._own.release()
    with contextlib.closing(sqlite3.connect(spool._own.path)) as database:
        database.execute("UPDATE batches SET body = x'00' WHERE number = 2")
        database.commit()

    assert drained(spool) == ["a", "c"]
    assert counts["corrupt"] == 1


def test_a_file_of_a_later_version_is_left_as_it_is(make, counts, tmp_path) -> None:
    before = make()
    before.add(packed("a"))
    path = before._own.path
    before.close(5)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 2")

    assert make().next(set()) is None
    assert path.exists()
    assert counts["corrupt"] == 0


@pytest.mark.parametrize("trouble", ["the base is a file", "somebody else's folder", "a link to nowhere"])
def test_without_a_usable_folder_records_wait_in_memory_and_are_counted(make, counts, tmp_path, trouble) -> None:
    base = tmp_path / "spool"
    if trouble == "the base is a file":
        base.write_text("in the way")
    elif trouble == "a link to nowhere":
        base.mkdir()
        (base / "chat").symlink_to(tmp_path / "nowhere")
    else:
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        (base / "chat").mkdir(parents=True)
        os.chown(base / "chat", 12345, 12345)
    spool = make()

    assert not spool.add(packed("a", "b"))
    assert counts["unspooled"] == 2
    assert spool.problem
    assert drained(spool) == ["a", "b"]


def test_what_waits_in_memory_goes_to_the_disk_when_that_is_back(make, counts, tmp_path) -> None:
    (tmp_path / "spool").write_text("in the way")
    spool = make()
    assert not spool.add(packed("a"))
    (tmp_path / "spool").unlink()
    spool._disk_at = 0.0

    assert spool.add(packed("b"))

    assert spool.memory_records == 0
    assert spool.problem == ""
    assert counts == {"unspooled": 1, "spooled": 2}


def test_memory_is_bounded_too_and_keeps_the_gravest(make, counts, tmp_path) -> None:
    (tmp_path / "spool").write_text("in the way")
    spool = make(limit=100)
    for n in range(200):
        spool.add(packed(f"h{n}", grade="hygiene"))
    assert spool.records == 75, "a quarter is for what is graver"

    for n in range(200):
        spool.add(packed(f"c{n}"))

    assert drained(spool) == [f"c{n}" for n in range(100)]
    assert counts["queue_full"] == 300


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    reason = "a small file system needs root and the right to mount"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(reason)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_costs_nothing_that_was_kept_and_is_left_again(make, counts, small_disk, monkeypatch) -> None:
    monkeypatch.setattr(spool_module, "DISK_AGAIN_S", 0.0)
    spool = make(base=small_disk, limit=10_000)
    kept = [n for n in range(100) if spool.add(big(n))]
    (small_disk / "ballast").write_bytes(b"")
    with contextlib.suppress(OSError), (small_disk / "ballast").open("wb") as ballast:
        while True:
            ballast.write(b"x" * 4096)
            ballast.flush()

    assert 10 < len(kept) < 100
    assert counts["unspooled"] + counts["queue_full"] == 100 - len(kept)
    spool._disk_at = float("inf")
    assert sorted(drained(spool)) == list(range(100)), "all of it is sent, although nothing could be deleted one by one"
    (small_disk / "ballast").unlink()
    spool._disk_at = 0.0
    assert spool.add(packed("after"))
    assert drained(spool) == ["after"]


def test_a_jump_of_the_clock_takes_nothing_away(make, monkeypatch) -> None:
    before = make()
    before.add(packed("a"))
    before.close(5)
    spool = make()
    spool.add(packed("b"))
    now = time.time()

    for year in (1971, 2090):
        monkeypatch.setattr(time, "time", lambda year=year: now + (year - 2026) * 31_557_600.0)
        spool._expire_at = 0.0
        spool._look_for_orphans()

    assert sorted(drained(spool)) == ["a", "b"]


def test_what_nobody_runs_any_more_goes_after_a_week_and_is_counted(make, counts, tmp_path) -> None:
    gone = make("gone")
    gone.add(packed("a", "b"))
    file = gone._own.path
    gone.close(5)
    (file.parent / "1-00000001.spool.corrupt").write_text("damaged")
    (file.parent / "1-00000002.lock").write_text("")
    spool = make("chat")
    spool.add(packed("c"))

    for age_days, files in ((6, 4), (8, 0)):
        for path in file.parent.iterdir():
            os.utime(path, (time.time() - age_days * 86_400,) * 2)
        spool._expire_at = 0.0
        spool._look_for_orphans()
        assert len(list(file.parent.iterdir())) == files

    assert counts["expired"] == 2
    assert drained(spool) == ["c"]


def test_what_other_programs_keep_below_the_folder_is_never_touched(make, counts, tmp_path) -> None:
    """Somebody names `/var/lib` or a volume that others use as well."""
    names = ("mail.spool", "database.corrupt", "apt.lock", "1-abc.spool", "12-00000000.spool.old")
    for folder in ("chat", "other"):
        (tmp_path / "spool" / folder).mkdir(parents=True)
        for name in names:
            path = tmp_path / "spool" / folder / name
            path.write_text("not ours")
            os.utime(path, (1, 1))
    spool = make("chat")
    spool._expire_at = 0.0

    assert spool.next(set()) is None

    for folder in ("chat", "other"):
        assert sorted(path.name for path in (tmp_path / "spool" / folder).iterdir()) == sorted(names)
    assert not counts
    assert SpoolFolder(str(tmp_path / "spool"), "chat").contents().files == 0


@pytest.mark.parametrize("setting", ["auto", "named"])
def test_trying_to_write_leaves_nothing_behind(tmp_path, monkeypatch, setting) -> None:
    """Whoever asks, root perhaps, must not make a folder that the service's own user cannot use then."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    SpoolFolder("auto" if setting == "auto" else str(tmp_path / "spool"), "chat").try_to_write()

    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        SpoolFolder(str(tmp_path / "file"), "chat").try_to_write()


def test_services_share_no_folder_however_they_are_called(tmp_path) -> None:
    names = ["orders-api", "orders_api", "orders.api", "orders api", "заказы", "订单", "x" * 80, "x" * 90, "..", "."]

    folders = {name: SpoolFolder(str(tmp_path), name).path for name in names}

    assert len(set(folders.values())) == len(names)
    assert folders["orders-api"] == tmp_path / "orders-api", "what a path can carry stays as it is"
    assert {path.parent for path in folders.values()} == {tmp_path}


def test_a_file_that_a_cleaner_removed_is_sent_all_the_same(make) -> None:
    spool = make()
    spool.add(packed("a"))
    spool._own.path.unlink()

    assert spool.add(packed("b"))

    assert sorted(drained(spool)) == ["a", "b"]


def test_two_processes_that_want_the_same_file_do_not_both_get_it(tmp_path) -> None:
    file = SpoolFile.create(tmp_path)
    file.add(packed("a"))
    path = file.path
    file.let_go()

    first, second = SpoolFile.adopt(path), SpoolFile.adopt(path)

    assert first is not None
    assert second is None
    first.discard()
    assert SpoolFile.adopt(path) is None
    assert list(tmp_path.iterdir()) == []


def test_where_files_cannot_be_locked_records_wait_in_memory(make, counts, tmp_path, monkeypatch) -> None:
    """As on a network file system without locks; each try leaves nothing behind."""
    monkeypatch.setattr(filelock, "take", lambda fd: False)
    spool = make()

    assert not spool.add(packed("a"))

    assert counts == {"unspooled": 1}
    assert "cannot be locked" in spool.problem
    assert list((tmp_path / "spool" / "chat").iterdir()) == []


def test_where_no_folder_is_set_it_is_the_users_own_for_state_else_a_temporary_one(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    folder = SpoolFolder("auto", "chat/../x")
    folder.make()

    assert folder.path == tmp_path / "state" / f"isolation-monitor-{os.getuid()}" / "spool" / "chat_.._x-91c42809"
    assert {one.stat().st_mode & 0o777 for one in (folder.base.parent, folder.base, folder.path)} == {0o700}
    (tmp_path / "state" / f"isolation-monitor-{os.getuid()}" / "spool").chmod(0o777)
    with pytest.raises(PermissionError, match="set ISOLATION_SPOOL_DIR"):
        folder.make()
    (tmp_path / "in the way").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "in the way" / "state"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert tmp_path / "temporary" in SpoolFolder("auto", "chat").path.parents


@pytest.mark.parametrize(
    ("settings", "has_folder", "sync_from"),
    [
        ({}, False, None),
        ({"collector_url": "http://127.0.0.1:9"}, True, None),
        ({"collector_url": "http://127.0.0.1:9", "spool_dir": ""}, False, None),
        ({"collector_url": "http://127.0.0.1:9", "spool_bytes": 0, "spool_sync": "reachable"}, False, 2),
    ],
)
def test_the_settings_decide_whether_there_is_a_spool(tmp_path, settings, has_folder, sync_from) -> None:
    loaded = load_settings({"spool_dir": str(tmp_path), **settings}, environ={}, pyproject=tmp_path / "none")

    box = make_outbox(loaded, lambda what, n: None)

    assert (box.folder is not None, box._sync_from) == (has_folder, sync_from)
    assert list(tmp_path.iterdir()) == [], "nothing is made before it is needed"


def test_a_disk_that_hangs_holds_up_neither_the_end_nor_the_gauges(make) -> None:
    spool = make()
    spool.add(packed("a"))
    with held(spool):
        assert spool.used_bytes == 0, "as of the last look"
        assert spool.close(0.01) == 0


@pytest.mark.parametrize(
    "damage",
    [
        "ALTER TABLE batches RENAME COLUMN crc TO gone",
        "DROP TABLE batches",
        "UPDATE batches SET body = 'text', records = 'many', instance = CAST(x'ff' AS TEXT)",
        "UPDATE batches SET gravity = 99",
    ],
)
def test_a_file_in_which_things_are_not_as_they_were_written_stops_no_other(make, counts, tmp_path, damage) -> None:
    """Found by fuzzing: one such file was asked again and again, and those of other processes waited behind it."""
    for name in ("first", "second"):
        left = make()
        left.add(packed(name))
        left.close(1)
    file = sorted((tmp_path / "spool").rglob("*.spool"))[0]
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(damage)
        connection.commit()

    reader = make()
    found = reader.next(set())
    while found is None or (b"second" not in found[1].text() and b"first" not in found[1].text()):
        found = reader.next(set())

    assert counts["corrupt"] == 1
