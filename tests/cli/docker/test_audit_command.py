"""`isomon docker audit` as CI uses it: which files it reads, what it prints, and how it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from isolation_monitor.cli.docker.audit import RULES, audit
from isolation_monitor.cli.main import main
from tests.cli.test_violations import isomon

FORCED = "#!/bin/sh\ndocker rm -f web\n"


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


def test_the_exit_code_says_whether_something_was_found(tmp_path: Path) -> None:
    (tmp_path / "clean.sh").write_text("docker stop web && docker rm web\n")
    clean = isomon("docker", "audit", cwd=tmp_path)
    (tmp_path / "forced.sh").write_text(FORCED)
    found = isomon("docker", "audit", str(tmp_path))

    assert (clean.returncode, clean.stdout) == (0, "nothing found in 1 files\n")
    assert found.returncode == 1
    (line,) = [line for line in found.stdout.splitlines() if "forced.sh:2" in line]
    assert "docker rm -f" in line
    assert RULES["forced-remove"].why in line
    assert RULES["forced-remove"].instead in line
    assert isomon("docker", "audit", str(tmp_path / "none")).returncode == 2


def test_json_and_sarif_have_the_same_findings(tmp_path: Path) -> None:
    (tmp_path / "x.sh").write_text("docker kill web\ndocker rm -f a # isomon: allow forced-remove -- scratch\n")

    done = isomon("docker", "audit", ".", "--json", "--sarif", "out.sarif", cwd=tmp_path)

    document = json.loads(done.stdout)
    assert (document["found"], document["allowed"], document["files"], done.returncode) == (1, 1, 1, 1)
    assert [(one["path"], one["line"], one["rule"], one["allowed"]) for one in document["findings"]] == [
        ("x.sh", 1, "kill", None),
        ("x.sh", 2, "forced-remove", "scratch"),
    ]
    (run,) = json.loads((tmp_path / "out.sarif").read_text())["runs"]
    assert [one["ruleId"] for one in run["results"]] == ["kill", "forced-remove"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == list(RULES)
    assert run["results"][1]["suppressions"][0]["justification"] == "scratch"
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "x.sh"


def test_what_git_ignores_and_other_peoples_code_is_not_read(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("build/\n")
    for folder in ("build", "node_modules/x", "scripts"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "clean.sh").write_text(FORCED)
    (tmp_path / "tracked.sh").write_text(FORCED)
    git(tmp_path, "add", "tracked.sh")
    (tmp_path / "gone.sh").write_text(FORCED)
    git(tmp_path, "add", "gone.sh")
    (tmp_path / "gone.sh").unlink()
    (tmp_path / "link.sh").symlink_to("tracked.sh")

    found = {Path(one.path).relative_to(tmp_path).as_posix() for one in audit([tmp_path]).found}
    without = audit([tmp_path], ["scripts/*"]).found

    assert found == {"tracked.sh", "scripts/clean.sh"}
    assert [Path(one.path).name for one in without] == ["tracked.sh"]
    assert audit([tmp_path / "build" / "clean.sh"]).found, "a file that is named is read"


def test_a_checkouts_settings_start_no_program(tmp_path: Path) -> None:
    """An audit is run on other people's branches."""
    git(tmp_path, "init", "-q")
    hook = tmp_path / "hook.sh"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    git(tmp_path, "config", "core.fsmonitor", str(hook))

    audit([tmp_path])

    assert not (tmp_path / "ran").exists()


def test_odd_files_are_survived_and_what_was_not_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "latin.sh").write_bytes("# gr\u00fc\u00dfe\ndocker rm -f web\n".encode("latin-1"))
    (tmp_path / "utf16.ps1").write_bytes("docker rm -f web\n".encode("utf-16"))
    (tmp_path / "crlf.sh").write_bytes(b"docker rm \\\r\n  -f web\r\n")
    (tmp_path / "bom.py").write_bytes(b"\xef\xbb\xbfimport os\nos.system('docker kill web')\n")
    (tmp_path / "binary.py").write_bytes(b"docker\0\x01")
    (tmp_path / "huge.sh").write_bytes(b"docker ps\n" * 200_000)
    (tmp_path / "broken.yml").write_text("run: [docker rm -f\n: }")
    (tmp_path / "quotes.sh").write_text('docker rm -f "web\n')
    (tmp_path / "deep.py").write_text("x = " + "(" * 3_000 + "'docker'" + ")" * 3_000)
    (tmp_path / "data.bin").write_bytes(bytes(range(256)))
    (tmp_path / "empty.sh").write_text("")

    report = audit([tmp_path])

    assert {Path(one.path).name for one in report.found} == {"latin.sh", "utf16.ps1", "crlf.sh", "bom.py", "quotes.sh"}
    assert {Path(one.path).name for one in report.unread} == {"binary.py", "huge.sh", "broken.yml"}
    done = isomon("docker", "audit", str(tmp_path / "broken.yml"))
    assert (done.returncode, "not read" in done.stdout) == (0, True)
    assert isomon("docker", "audit", "--strict", str(tmp_path / "broken.yml")).returncode == 1


def test_no_text_breaks_the_readers(tmp_path: Path) -> None:
    """Half a file of any kind, as an editor leaves it, is read or named as unread; nothing raises."""
    from tests.cli.docker.test_audit import CASES

    for name, text in CASES.items():
        for share in (0.3, 0.5, 0.77):
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text[: int(len(text) * share)], encoding="utf-8")
        audit([file])


def test_without_the_engines_library_the_audit_still_runs(tmp_path: Path) -> None:
    (tmp_path / "x.sh").write_text(FORCED)
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('aiodocker', 'aiohttp'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from isolation_monitor.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, "docker", *words], capture_output=True, text=True, check=False)

    assert run("audit", str(tmp_path)).returncode == 1
    stop = run("stop", "web")
    assert (stop.returncode, "isolation-monitor[docker]" in stop.stderr) == (2, True)


@pytest.mark.parametrize("name", ["audit", "stop", "restart", "rm", "kill", "prune", "journal"])
def test_help_shows_examples_and_exit_codes(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    with pytest.raises(SystemExit) as left:
        main(["docker", name, "--help"])

    assert not left.value.code
    printed = capsys.readouterr().out
    assert "Exit codes" in printed
    assert "Examples" in printed
