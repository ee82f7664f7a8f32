"""`deploy/make-secrets.py` and the images' entry point."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

from tests.compose.compose import ROOT, project

MAKE = ROOT / "deploy" / "make-secrets.py"
ENTRY = ROOT / "deploy" / "run_with_secrets.py"


def make(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", MAKE, "--folder", folder, *options], capture_output=True, text=True, timeout=60, check=False
    )


def enter(*program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", ENTRY, *program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


def test_it_makes_exactly_the_secrets_that_compose_mounts(tmp_path: Path):
    folder = tmp_path / "secrets"

    assert make(folder).returncode == 0

    wanted = {Path(item["file"]).name for item in project()["secrets"].values()}
    assert {path.name for path in folder.iterdir()} == wanted | {".gitignore"}
    values = [(folder / name).read_text() for name in wanted]
    assert all(len(value) >= 43 for value in values)
    assert len(set(values)) == len(values)


def test_only_the_owner_can_enter_and_a_container_of_any_user_can_read(tmp_path: Path):
    """Compose hands a file over with its mode: the folder guards it on this machine, the file must be readable inside."""
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o755)
    make(folder)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.name != ".gitignore"} == {0o444}
    assert (folder / ".gitignore").read_text() == "*\n"


def test_it_never_changes_a_secret_that_is_there(tmp_path: Path):
    """A new database password would lock the collector out of its own database."""
    folder = tmp_path / "secrets"
    make(folder)
    (folder / "send_token").unlink()
    before = {path.name: path.read_text() for path in folder.iterdir()}

    done = make(folder)

    after = {path.name: path.read_text() for path in folder.iterdir()}
    assert "send_token" in done.stdout
    assert done.stdout.count("made ") == 1
    assert {name: after[name] for name in before} == before
    assert before["read_token"] not in done.stdout


def test_check_names_what_is_missing_and_makes_nothing(tmp_path: Path):
    folder = tmp_path / "secrets"
    done = make(folder, "--check")

    assert done.returncode == 1
    assert "postgres_password" in done.stderr
    assert not folder.exists()
    make(folder)
    assert make(folder, "--check").returncode == 0


def test_the_entry_point_hands_the_password_to_the_program(tmp_path: Path):
    password = tmp_path / "password"
    password.write_text("made-for-this-test\n")

    done = enter("env", PGPASSWORD_FILE=str(password))

    assert "PGPASSWORD=made-for-this-test\n" in done.stdout
    assert "PGPASSWORD_FILE" not in done.stdout


def test_the_entry_point_says_what_is_wrong_in_one_line(tmp_path: Path):
    empty = tmp_path / "empty"
    empty.touch()

    for done, said in (
        (enter("env", PGPASSWORD_FILE=str(tmp_path / "none")), "cannot be read (FileNotFoundError)"),
        (enter("env", PGPASSWORD_FILE=str(empty)), "is empty"),
        (enter(), "no program given"),
    ):
        assert done.returncode == 1
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_the_entry_point_becomes_the_program_and_keeps_its_exit_code():
    assert enter("sh", "-c", "exit 7").returncode == 7
