"""The client in JavaScript: its own tests, what its package holds, and that it works where it is installed."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

import isolation_monitor
from isolation_monitor.demo.binaries import NODE
from isolation_monitor.telemetry.clients import JAVASCRIPT
from tests.real_parts.installed import installed
from tests.telemetry.clients.npm import pack

HERE = Path(__file__).parent / "javascript"
ROOT = Path(__file__).parents[3]
MODULES = sorted(JAVASCRIPT.glob("*.js"))


def test_its_own_tests_pass_in_node() -> None:
    """Order, acknowledgements, resuming and reconnecting, with a clock that the tests turn."""
    files = sorted(str(path) for path in HERE.glob("*.test.mjs"))
    done = subprocess.run([installed(NODE).path, "--test", *files], capture_output=True, text=True, check=False, timeout=300)

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"^\S pass (\d+)$", done.stdout, re.M)
    assert passed is not None
    assert int(passed[1]) >= 50, "an empty run is no pass"


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("pack"))


def test_the_package_holds_the_modules_their_types_and_the_readme_and_nothing_else(tarball: Path) -> None:
    with tarfile.open(tarball) as archive:
        names = {name.removeprefix("package/") for name in archive.getnames()}

    assert names == {"package.json", "README.md", "isolation-socket.d.ts", *(path.name for path in MODULES)}


def test_the_package_says_version_and_licence_of_the_project_and_needs_nothing() -> None:
    import tomllib

    package = json.loads((JAVASCRIPT / "package.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert package["version"] == isolation_monitor.__version__
    assert package["license"] == project["license"]
    assert not {"dependencies", "peerDependencies", "scripts", "bundledDependencies"} & set(package)


def test_it_is_as_small_as_its_page_says() -> None:
    """docs/javascript-client.md promises these bounds: what a page loads, as it is and compressed."""
    content = [path.read_bytes() for path in MODULES]

    assert sum(map(len, content)) <= 30_000
    assert sum(len(gzip.compress(each)) for each in content) <= 11_000
    page = (ROOT / "docs" / "javascript-client.md").read_text()
    assert "30 kB" in page
    assert "11 kB" in page


def test_no_module_has_outgrown_one_subject_and_none_loads_anything_from_elsewhere() -> None:
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 500, path.name
        assert max(map(len, text.splitlines())) <= 140, path.name
        for source in re.findall(r"(?:from|import)\s*\(?\s*[\"']([^\"']+)", text):
            assert (JAVASCRIPT / source).is_file(), f"{path.name} imports {source}"


def test_its_types_name_every_member_event_and_option(tmp_path: Path) -> None:
    """TypeScript is no dependency, so the declarations are written by hand: they must not fall behind."""
    script = tmp_path / "members.mjs"
    client = (JAVASCRIPT / "isolation-socket.js").as_uri()
    script.write_text(
        f'import {{ IsolationSocket }} from "{client}";\n'
        "const own = Object.getOwnPropertyNames(IsolationSocket.prototype).filter((name) => name !== 'constructor');\n"
        "let options = '';\n"
        "try { new IsolationSocket('ws://x', { nothing: 1 }); } catch (error) { options = error.message.split('use one of ')[1]; }\n"
        "console.log(JSON.stringify([...own, ...options.split(', ')]));\n"
    )
    names = json.loads(subprocess.check_output([installed(NODE).path, script], text=True))
    types = (JAVASCRIPT / "isolation-socket.d.ts").read_text()

    assert len(names) > 30
    assert [name for name in names if not re.search(rf"\b{name}\??[:(]", types)] == []
    declared = set(re.findall(r"^  (?:readonly )?(\w+)\??[:(<]", types.split("interface IsolationSocketOptions")[1].split("\n}")[0], re.M))
    assert declared <= set(names), "options that do not exist"
