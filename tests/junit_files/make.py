#!/usr/bin/env python3
"""Makes the JUnit files of this folder by running the real runners: `python -m tests.junit_files.make [NAME...]`.

Each runner gets a small project with tests that pass, fail, err and are skipped. What a runner leaves is kept as it is, except for the
names of the machine and of its folders. `versions.json` tells by which versions the files were made. A runner that is missing is left
out with a word; its file stays. Needs (each for its own file): pytest, node 20, npm (jest, jest-junit, mocha, mocha-junit-reporter,
vitest), ctest, go with gotestsum, prove with TAP::Harness::JUnit, Maven with surefire and JUnit 5 in its local repository, PHPUnit, RSpec
with rspec_junit_formatter, cargo-nextest.
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


def surefire(folder: Path) -> dict[str, str]:
    """Maven with JUnit 5, `rerunFailingTestsCount` on; tests in two classes, which surefire writes to two files."""
    test = "org.junit.jupiter.api"
    _write(
        folder,
        {
            "pom.xml": (
                '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>\n'
                "<groupId>com.example</groupId><artifactId>orders</artifactId><version>1</version>\n"
                "<properties><maven.compiler.release>17</maven.compiler.release>"
                "<project.build.sourceEncoding>UTF-8</project.build.sourceEncoding></properties>\n"
                f"<dependencies><dependency><groupId>org.junit.jupiter</groupId><artifactId>junit-jupiter</artifactId>"
                f"<version>{_JUPITER}</version><scope>test</scope></dependency></dependencies>\n"
                "<build><plugins><plugin><artifactId>maven-resources-plugin</artifactId><version>3.3.1</version></plugin>"
                "<plugin><artifactId>maven-compiler-plugin</artifactId><version>3.14.0</version></plugin>"
                "<plugin><groupId>org.apache.maven.plugins</groupId><artifactId>maven-surefire-plugin</artifactId>"
                f"<version>{_SUREFIRE}</version><configuration><rerunFailingTestsCount>2</rerunFailingTestsCount></configuration>"
                # Maven 3.8 adds one of 2006 to a plugin that names none.
                "<dependencies><dependency><groupId>org.codehaus.plexus</groupId><artifactId>plexus-utils</artifactId>"
                "<version>3.5.1</version></dependency></dependencies>"
                "</plugin></plugins></build></project>\n"
            ),
            "src/test/java/com/example/OrdersTest.java": (
                f"package com.example;\nimport static {test}.Assertions.*;\nimport {test}.*;\n"
                "class OrdersTest {\n  static int tries = 0;\n"
                "  @Test void adds() { assertEquals(2, 1 + 1); }\n"
                '  @Test @DisplayName("is wrong, a<b&c") void isWrong() { assertEquals(4, 3, "the sum"); }\n'
                '  @Test void isFlaky() { assertTrue(++tries > 1, "only the second time"); }\n'
                '  @Test @Disabled("not today") void later() {}\n'
                '  @Test void calls() throws Exception { new java.net.Socket("127.0.0.1", 1).close(); }\n'
                "  @Nested class WhenEmpty { @Test void hasNoTotal() {} }\n"
                "}\n"
            ),
            "src/test/java/com/example/BrokenTest.java": (
                f"package com.example;\nimport {test}.*;\nclass BrokenTest {{\n"
                '  @BeforeAll static void database() { throw new IllegalStateException("no database"); }\n'
                "  @Test void neverRuns() {}\n}\n"
            ),
        },
    )
    _run(folder, "mvn", "--batch-mode", "--offline", "test")
    reports = folder / "target" / "surefire-reports"
    made = {
        f"surefire{suffix}.xml": (reports / f"TEST-com.example.{name}.xml").read_text(encoding="utf-8")
        for suffix, name in (("", "OrdersTest"), ("-broken", "BrokenTest"))
    }
    # What the JVM and Maven know of the machine is of no interest here.
    made = {name: re.sub(r"(?s)<properties>.*?</properties>", "<properties/>", text, count=1) for name, text in made.items()}
    return {**made, "": f"{_SUREFIRE} (maven {_maven()}, junit-jupiter {_JUPITER})"}


_SUREFIRE, _JUPITER = "3.5.4", "5.12.2"


def _maven() -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", _version("mvn", "--version")).removeprefix("Apache Maven ").split()[0]


def vitest(folder: Path) -> dict[str, str]:
    spec = (
        "import {{ describe, expect, it }} from 'vitest';\n"
        "let tries = 0;\n"
        "describe('cart', () => {{\n  it('adds', () => {{ expect(1 + 1).toBe(2); }});\n  it('is wrong', () => {{ expect(3).toBe(4); }});\n"
        "  it.skip('later', () => {{}});\n  it.fails('known', () => {{ expect(1).toBe(2); }});\n"
        "  it('is flaky', {{ retry: 2 }}, () => {{ tries += 1; expect(tries).toBeGreaterThan(1); }});\n"
        "  describe('when empty', () => {{\n    it('throws', () => {{ throw new TypeError('total is not a function'); }});\n"
        "    it('hangs', {{ timeout: 50 }}, () => new Promise((resolve) => setTimeout(resolve, 500)));\n  }});\n}});\n"
    ).format()
    _write(
        folder,
        {
            "cart.test.mjs": spec,
            "broken.test.mjs": "import './nowhere-to-be-found.mjs';\n",
            "package.json": '{"name": "cart", "private": true, "type": "module"}\n',
        },
    )
    _run(folder, "npm", "install", "--no-audit", "--no-fund", "vitest@3")
    _run(folder, "npx", "vitest", "run", "--reporter=junit", "--outputFile=out.xml")
    return {"vitest.xml": (folder / "out.xml").read_text(encoding="utf-8"), "": _npm_version(folder, "vitest")}


def phpunit(folder: Path) -> dict[str, str]:
    _write(
        folder,
        {
            "tests/OrdersTest.php": (
                "<?php\nuse PHPUnit\\Framework\\TestCase;\nfinal class OrdersTest extends TestCase {\n"
                "  public function testAdds(): void { $this->assertSame(2, 1 + 1); }\n"
                "  public function testIsWrong(): void { $this->assertSame(4, 3, 'the sum'); }\n"
                "  public function testLater(): void { $this->markTestSkipped('not today'); }\n"
                "  public function testUnfinished(): void { $this->markTestIncomplete('half done'); }\n"
                "  public function testSaysNothing(): void {}\n"
                "  public function testCalls(): void { stream_socket_client('tcp://127.0.0.1:1', $code, $text, 1); }\n"
                "  public function testThrows(): void { throw new RuntimeException('no total'); }\n"
                "  /** @dataProvider names */\n"
                "  public function testNames(string $name): void { $this->assertMatchesRegularExpression('/^[a-z]+$/', $name); }\n"
                "  public static function names(): array { return ['plain' => ['shop'], 'Größe' => ['a<b&c']]; }\n}\n"
            )
        },
    )
    _run(folder, "phpunit", "--log-junit", "out.xml", "tests")
    php = re.sub(r"PHP (\d[\d.]*).*", r"\1", _version("php", "--version"))
    ours = re.sub(r"^PHPUnit (\d[\d.]*).*", r"\1", _version("phpunit", "--version"))
    return {"phpunit.xml": (folder / "out.xml").read_text(encoding="utf-8"), "": f"{ours} (php {php})"}


def rspec(folder: Path) -> dict[str, str]:
    _write(
        folder,
        {
            "spec/cart_spec.rb": (
                "require 'socket'\nRSpec.describe 'cart' do\n  it('adds') { expect(1 + 1).to eq 2 }\n"
                "  it('is wrong') { expect(3).to eq 4 }\n  xit('later') { }\n"
                "  it('known') { pending 'known'; expect(1).to eq 2 }\n"
                "  context 'when empty' do\n    before { TCPSocket.new('127.0.0.1', 1) }\n    it('has no total') { }\n  end\n"
                "  it('throws <a&b>') { nil.total }\nend\n"
            )
        },
    )
    _run(folder, "rspec", "--format", "RspecJunitFormatter", "--out", "out.xml")
    codes = (
        "puts Gem::Specification.find_by_name('rspec_junit_formatter').version",
        "require 'rspec/core'; puts RSpec::Core::Version::STRING",
        "puts RUBY_VERSION",
    )
    ours = "rspec_junit_formatter {} (rspec {}, ruby {})".format(*(_version("ruby", "-e", code) for code in codes))
    return {"rspec.xml": (folder / "out.xml").read_text(encoding="utf-8"), "": ours}


def nextest(folder: Path) -> dict[str, str]:
    _write(
        folder,
        {
            "Cargo.toml": '[package]\nname = "orders"\nversion = "0.1.0"\nedition = "2021"\n',
            ".config/nextest.toml": (
                '[profile.ci]\nretries = 2\nfail-fast = false\nslow-timeout = { period = "4s", terminate-after = 1 }\n'
                '[profile.ci.junit]\npath = "junit.xml"\n'
            ),
            "src/lib.rs": (
                "#[cfg(test)]\nmod cart {\n"
                "    #[test]\n    fn adds() { assert_eq!(1 + 1, 2); }\n"
                '    #[test]\n    fn is_wrong() { assert_eq!(3, 4, "the sum"); }\n'
                "    #[test]\n    fn is_flaky() {\n"
                '        let seen = std::path::Path::new("seen");\n'
                '        if !seen.exists() { std::fs::write(seen, "").unwrap(); panic!("only the second time"); }\n'
                "    }\n"
                "    #[test]\n    #[ignore]\n    fn later() {}\n"
                '    #[test]\n    fn calls() { std::net::TcpStream::connect("127.0.0.1:1").unwrap(); }\n'
                "    #[test]\n    fn hangs() { std::thread::sleep(std::time::Duration::from_secs(60)); }\n}\n"
            ),
            "tests/whole.rs": "#[test]\nfn passes() {}\n",
        },
    )
    _run(folder, "cargo-nextest", "nextest", "run", "--offline", "--profile", "ci", RUST_BACKTRACE="0")
    made = (folder / "target" / "nextest" / "ci" / "junit.xml").read_text(encoding="utf-8")
    ours, rust = (
        re.sub(r"^\D*(\d+\.\d+\.\d+).*", r"\1", _version(*command))
        for command in (("cargo-nextest", "nextest", "--version"), ("rustc", "--version"))
    )
    return {"nextest.xml": made, "": f"{ours} (rust {rust})"}


RUNNERS: dict[str, tuple[str, Callable[[Path], dict[str, str]]]] = {
    "pytest": ("pytest", pytest),
    "node": ("node", node),
    "jest": ("npm", jest),
    "mocha": ("npm", mocha),
    "ctest": ("ctest", ctest),
    "gotestsum": ("gotestsum", gotestsum),
    "prove": ("prove", prove),
    "surefire": ("mvn", surefire),
    "vitest": ("npm", vitest),
    "phpunit": ("phpunit", phpunit),
    "rspec": ("rspec", rspec),
    "nextest": ("cargo-nextest", nextest),
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
