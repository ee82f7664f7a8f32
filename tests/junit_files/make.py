#!/usr/bin/env python3
"""Makes the JUnit files of this folder by running the real runners: `python -m tests.junit_files.make [NAME...]`.

Each runner gets a small project with tests that pass, fail, err and are skipped. What a runner leaves is kept as it is, except for the
names of the machine and of its folders. `versions.json` tells by which versions the files were made. A runner that is missing is left
out with a word; its file stays. Needs (each for its own file): pytest, node 20, npm (jest, jest-junit, mocha, mocha-junit-reporter),
ctest, go with gotestsum, prove with TAP::Harness::JUnit.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
_RUN_S = 900


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _run(folder: Path, *command: str, **environment: str) -> str:
    """Run a command whose tests may fail; return what it printed."""
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=_RUN_S, check=False)
    return done.stdout + done.stderr


def _version(*command: str) -> str:
    lines = [line for line in _run(Path.cwd(), *command).splitlines() if re.search(r"\d+\.\d+", line)]
    return lines[0].strip() if lines else "unknown"


def pytest(folder: Path) -> dict[str, str]:
    _write(
        folder,
        {
            "tests/test_orders.py": (
                "import socket, pytest\n\n"
                "@pytest.fixture\ndef database():\n    socket.create_connection(('127.0.0.1', 1), timeout=1)\n\n"
                "def test_adds():\n    assert 1 + 1 == 2\n\n"
                "def test_is_wrong():\n    assert sum([1, 2]) == 4\n\n"
                "def test_needs_a_database(database):\n    pass\n\n"
                "@pytest.mark.skip(reason='not today')\ndef test_later():\n    pass\n\n"
                "@pytest.mark.xfail(reason='known')\ndef test_known():\n    assert False\n\n"
                "class TestUmlaute:\n    @pytest.mark.parametrize('name', ['Größe', 'a<b&c'])\n"
                "    def test_names(self, name):\n        print('\\x1b[31mred\\x1b[0m')\n        assert name.isascii(), name\n"
            ),
            "tests/test_broken.py": "import nowhere_to_be_found\n",
        },
    )
    _run(
        folder,
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:isolation",
        "--junit-xml=out.xml",
        "--continue-on-collection-errors",
        "tests",
    )
    return {"pytest.xml": (folder / "out.xml").read_text(encoding="utf-8")}


def node(folder: Path) -> dict[str, str]:
    _write(
        folder,
        {
            "orders.test.js": (
                "const { test, describe } = require('node:test');\nconst assert = require('node:assert');\n"
                "const net = require('node:net');\n"
                "test('adds', () => assert.strictEqual(1 + 1, 2));\n"
                "test('is wrong', () => assert.strictEqual(3, 4));\n"
                "describe('cart', () => {\n  describe('when empty', () => {\n"
                "    test('has no total', () => assert.ok(true));\n"
                "    test('calls the service', (t, done) => { net.connect(1, '127.0.0.1').on('error', done); });\n  });\n"
                "  test('later', { skip: 'not today' }, () => {});\n"
                "  test('hangs', { timeout: 50 }, () => new Promise((resolve) => setTimeout(resolve, 300)));\n});\n"
            )
        },
    )
    _run(folder, "node", "--test", "--test-reporter=junit", "--test-reporter-destination=out.xml", "orders.test.js")
    return {"node.xml": (folder / "out.xml").read_text(encoding="utf-8")}


_SPEC = (
    "{assert}\n"
    "describe('cart', () => {{\n  it('adds', () => {{ {pass} }});\n  it('is wrong', () => {{ {fail} }});\n"
    "  {skip}('later', () => {{}});\n  describe('when empty', () => {{\n"
    "    it('throws', () => {{ throw new TypeError('total is not a function'); }});\n"
    "    it('hangs', () => new Promise((resolve) => setTimeout(resolve, 500)){timeout});\n  }});\n}});\n"
)


def jest(folder: Path) -> dict[str, str]:
    spec = _SPEC.format(
        **{"assert": "", "pass": "expect(1 + 1).toBe(2);", "fail": "expect(3).toBe(4);", "skip": "it.skip", "timeout": ", 50"}
    )
    _write(
        folder, {"cart.test.js": spec, "package.json": '{"name": "cart", "private": true, "jest-junit": {"addFileAttribute": "true"}}\n'}
    )
    _run(folder, "npm", "install", "--no-audit", "--no-fund", "jest@29", "jest-junit@16")
    _run(folder, "npx", "jest", "--reporters=jest-junit", JEST_JUNIT_OUTPUT_FILE="out.xml")
    return {
        "jest.xml": (folder / "out.xml").read_text(encoding="utf-8"),
        "": _npm_version(folder, "jest") + ", jest-junit " + _npm_version(folder, "jest-junit"),
    }


def mocha(folder: Path) -> dict[str, str]:
    spec = _SPEC.format(
        **{
            "assert": "const assert = require('node:assert');",
            "pass": "assert.equal(1 + 1, 2);",
            "fail": "assert.equal(3, 4);",
            "skip": "it.skip",
            "timeout": ").timeout(50",
        }
    ).replace(
        "it('hangs', () => new Promise((resolve) => setTimeout(resolve, 500)).timeout(50);",
        "it('hangs', () => new Promise((resolve) => setTimeout(resolve, 500))).timeout(50);",
    )
    _write(folder, {"test/cart.js": spec, "package.json": '{"name": "cart", "private": true}\n'})
    _run(folder, "npm", "install", "--no-audit", "--no-fund", "mocha@10", "mocha-junit-reporter@2")
    _run(folder, "npx", "mocha", "--reporter", "mocha-junit-reporter", "--reporter-options", "mochaFile=out.xml")
    both = f"{_npm_version(folder, 'mocha')}, mocha-junit-reporter {_npm_version(folder, 'mocha-junit-reporter')}"
    return {"mocha.xml": (folder / "out.xml").read_text(encoding="utf-8"), "": both}


def _npm_version(folder: Path, package: str) -> str:
    return str(json.loads((folder / "node_modules" / package / "package.json").read_text(encoding="utf-8"))["version"])


def ctest(folder: Path) -> dict[str, str]:
    _write(
        folder,
        {
            "CMakeLists.txt": (
                "cmake_minimum_required(VERSION 3.21)\nproject(orders NONE)\nenable_testing()\n"
                "add_test(NAME adds COMMAND true)\n"
                'add_test(NAME is.wrong COMMAND sh -c "echo expected 4, got 3; exit 1")\n'
                "add_test(NAME hangs COMMAND sleep 5)\nset_tests_properties(hangs PROPERTIES TIMEOUT 0.2)\n"
                "add_test(NAME later COMMAND true)\nset_tests_properties(later PROPERTIES DISABLED TRUE)\n"
                "add_test(NAME absent COMMAND no-such-program)\n"
            )
        },
    )
    _run(folder, "cmake", "-S", ".", "-B", "build")
    _run(folder / "build", "ctest", "--output-junit", "out.xml")
    return {
        "ctest.xml": (folder / "build" / "out.xml").read_text(encoding="utf-8"),
        "": re.sub(r"[^\d.]", "", _version("ctest", "--version")),
    }


def gotestsum(folder: Path) -> dict[str, str]:
    _write(
        folder,
        {
            "go.mod": "module example.com/orders\n\ngo 1.19\n",
            "orders_test.go": (
                'package orders\n\nimport (\n\t"net"\n\t"os"\n\t"testing"\n)\n\n'
                "func TestAdds(t *testing.T) {}\n\n"
                'func TestIsWrong(t *testing.T) { if got := 3; got != 4 { t.Errorf("got %d, want 4", got) } }\n\n'
                'func TestCart(t *testing.T) {\n\tt.Run("empty", func(t *testing.T) {})\n'
                '\tt.Run("calls", func(t *testing.T) { if _, err := net.Dial("tcp", "127.0.0.1:1"); err != nil { t.Fatal(err) } })\n}\n\n'
                'func TestLater(t *testing.T) { t.Skip("not today") }\n\n'
                'func TestFlaky(t *testing.T) {\n\tif _, err := os.Stat("seen"); err != nil {\n\t\tos.WriteFile("seen", nil, 0o600)\n'
                '\t\tt.Fatal("only the second time")\n\t}\n}\n'
            ),
            "broken/broken_test.go": 'package broken\n\nimport "example.com/nowhere"\n\nvar _ = nowhere.Nothing\n',
        },
    )
    own = {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOCACHE": str(folder / "cache"), "GOPATH": str(folder / "go")}
    _run(folder, "gotestsum", "--junitfile", "rerun.xml", "--rerun-fails=2", "--packages=.", **own)
    # All packages, with one that does not build: that one is counted in the file, and not named.
    _run(folder, "gotestsum", "--junitfile", "out.xml", "--packages=./...", **own)
    made = {
        name: (folder / file).read_text(encoding="utf-8")
        for name, file in (("gotestsum.xml", "out.xml"), ("gotestsum-rerun.xml", "rerun.xml"))
    }
    go = re.sub(r".*?go(\d[\d.]*).*", r"\1", _version("go", "version"))
    ours = re.sub(r"^unknown$", "built without a version", _version("gotestsum", "--version"))
    return {**made, "": f"{ours} (go {go})"}


def prove(folder: Path) -> dict[str, str]:
    _write(
        folder,
        {
            "t/orders.t": (
                "use Test::More tests => 4;\nok(1 + 1 == 2, 'adds');\nis(3, 4, 'is wrong');\n"
                "SKIP: { skip 'not today', 1; }\nTODO: { local $TODO = 'known'; ok(0, 'known'); }\n"
            ),
            "t/broken.t": 'use Nowhere::To::Be::Found;\nprint "1..1\\nok 1\\n";\n',
        },
    )
    _run(folder, "prove", "--harness", "TAP::Harness::JUnit", "-r", "t", JUNIT_OUTPUT_FILE="out.xml")
    perl = re.sub(r".*?v(\d[\d.]*).*", r"\1", _version("perl", "--version"))
    ours = re.sub(r"[^\d.]", "", _version("perl", "-MTAP::Harness::JUnit", "-e", "print $TAP::Harness::JUnit::VERSION"))
    return {"prove.xml": (folder / "out.xml").read_text(encoding="utf-8"), "": f"{ours} (perl {perl})"}


RUNNERS: dict[str, tuple[str, Callable[[Path], dict[str, str]]]] = {
    "pytest": ("pytest", pytest),
    "node": ("node", node),
    "jest": ("npm", jest),
    "mocha": ("npm", mocha),
    "ctest": ("ctest", ctest),
    "gotestsum": ("gotestsum", gotestsum),
    "prove": ("prove", prove),
}
"""By name: the program that has to be there, and what makes the file."""


def _scrubbed(text: str, folder: Path) -> str:
    """Take the machine out of a file."""
    for found in {str(folder), str(folder.resolve()), str(folder.parent)}:
        text = text.replace(found, "/build")
    text = text.replace(sys.prefix, "/venv").replace(sys.base_prefix, "/python").replace(str(Path.home()), "/home/ci")
    text = re.sub(r'(hostname=")[^"]*(")', r"\1runner\2", text)
    return re.sub(r"(<hostname>)[^<]*(</hostname>)", r"\1runner\2", text)


def main(names: list[str]) -> int:
    """Make the files that are named, or all; return 1 when one could not be made."""
    file = HERE / "versions.json"
    versions: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    failed = 0
    for name in names or RUNNERS:
        program, make = RUNNERS[name]
        if shutil.which(program) is None:
            print(f"{name}: left out, {program} is not installed")
            continue
        with tempfile.TemporaryDirectory(prefix="junit-") as temporary:
            folder = Path(temporary) / "project"
            folder.mkdir()
            try:
                made = make(folder)
            except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
                print(f"{name}: {type(error).__name__}: {error}")
                failed = 1
                continue
        versions[name] = made.pop("", "") or re.sub(r"^\D*", "", _version(program, "--version"))
        for target, text in made.items():
            (HERE / target).write_text(_scrubbed(text, folder), encoding="utf-8")
        print(f"{name}: {versions[name]}")
    file.write_text(json.dumps(versions, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
