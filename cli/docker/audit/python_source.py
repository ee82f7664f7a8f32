"""Finds what is dangerous in Python: commands that are run, and calls of Docker's libraries (docker, aiodocker, podman, python-on-whales).

A text is judged only where it runs: as an argument of a call that runs commands, directly or by a name or function of the same
file. What is printed, logged, raised, compared or documented stays quiet.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from isolation_monitor.cli.docker.audit.command_line import SHELLS
from isolation_monitor.cli.docker.audit.engine_words import COMPOSE, ENGINES, program
from isolation_monitor.cli.docker.audit.python_library import LibraryCalls
from isolation_monitor.cli.docker.audit.python_values import Text, Value, Values, Words, dotted
from isolation_monitor.cli.docker.audit.rules import Hit
from isolation_monitor.cli.docker.audit.shell import ShellText
from isolation_monitor.cli.docker.audit.unknown import HOLE, value_of_unknown

_RUNS: Final = frozenset([
        "run", "call", "check_call", "check_output", "Popen", "system", "popen", "getoutput", "getstatusoutput",
        "create_subprocess_exec", "create_subprocess_shell", "subprocess_exec", "subprocess_shell", "exec_command", "execute",
        "run_command", "run_cmd", "run_shell", "run_process", "open_process", "runcmd", "sudo", "local", "shell", "cmd", "command",
        "sh", "bash", "exec", "spawn", "execv", "execve", "execvp", "execvpe", "spawnv", "spawnvp", "posix_spawn", "posix_spawnp",
        "invoke", "ssh", "remote", "check_run", "sh_run", "execl", "execlp", "spawnl", "spawnlp", "spawnlpe", "run_in_shell",
        "run_sync", "run_async", "start_process", "put_command", "check_shell", "quiet_run",
    ])  # fmt: skip
_SPREAD: Final = frozenset(
    {"create_subprocess_exec", "subprocess_exec", "execl", "execlp", "spawnl", "spawnlp", "spawnlpe", "run", "exec", "sudo", "execute"}
)
_SIMPLE: Final = (ast.Expr, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return)
_TALKS = re.compile(
    r"^_*(?:print|log|debug|info|warning|warn|error|critical|exception|fail|skip|echo|secho|write|format|match|search|compile|add_argument|Error|join)$"
)


def hits(text: str) -> Iterator[Hit]:
    """Yield what is found in the source of a Python file.

    Raises:
        SyntaxError: it is no Python 3.
    """
    with warnings.catch_warnings():
        # Odd escapes in other people's strings are none of our business.
        warnings.simplefilter("ignore")
        tree = ast.parse(text)
    statements = sorted((node.lineno, node.end_lineno or node.lineno) for node in ast.walk(tree) if isinstance(node, _SIMPLE))
    for hit in _Source(tree).hits():
        start = max((first for first, last in statements if first <= hit.line <= last), default=hit.line)
        yield replace(hit, start_line=start)


class _Source:
    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.values = Values(tree)
        self.library = LibraryCalls(tree)
        self.runners = self._runners()
        self.quiet = self._quiet_nodes()

    def hits(self) -> Iterator[Hit]:
        for node in ast.walk(self.tree):
            if id(node) in self.quiet:
                continue
            if isinstance(node, ast.Call):
                yield from self._call(node)
                yield from self.library.judge(node)
            elif isinstance(node, ast.List | ast.Tuple):
                # A list that begins with the engine's program is a command, wherever it goes.
                value = self.values.of(node)
                if isinstance(value, Words) and value.words and _is_program(value.words[0]):
                    yield from self._judge(value)

    def _call(self, node: ast.Call) -> Iterator[Hit]:
        name = dotted(node.func).rsplit(".", 1)[-1].removesuffix("()")
        if name in ("delete", "post", "request"):
            yield from self._api(node, name)
        before = self.runners.get(name)
        if before is None:
            if _TALKS.match(name):
                return
            engine = value_of_unknown(name)
            if engine != HOLE and node.args:
                before = [engine]  # docker("rm", "-f", name), _docker([...])
            elif name in ("docker_compose", "compose"):
                before = ["docker-compose"]
            elif name in _RUNS:
                before = []
        if before is None:
            return
        for value in self._arguments(node, name, before):
            yield from self._judge(value, before)

    def _api(self, node: ast.Call, name: str) -> Iterator[Hit]:
        """Judge a call of the engine's own API by an HTTP client, as curl's call of it."""
        texts = [value.text for one in node.args[:2] if isinstance(value := self.values.of(one), Text)]
        address = next((text for text in texts if re.search(r"/containers/|/volumes/|/images/|/prune\b", text)), None)
        if address is None:
            return
        given = next((one.value for one in node.keywords if one.arg == "params"), None)
        if isinstance(given, ast.Dict):
            address += "?" + "&".join(
                f"{key.value!s}={str(value.value).lower()}"
                for key, value in zip(given.keys, given.values, strict=True)
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
            )
        method = texts[0].upper() if name == "request" else name.upper()
        words = ("curl", "-X", method, address)
        yield from self._judge(Words(words, (node.lineno,) * len(words), node))

    def _arguments(self, node: ast.Call, name: str, before: list[str]) -> Iterator[Value]:
        plain = [one for one in node.args if not isinstance(one, ast.Starred)]
        named = [one.value for one in node.keywords if one.arg in ("args", "cmd", "command", "argv", "script")]
        spread = Words((), (), node)
        listed = self.values.of(ast.copy_location(ast.List(list(node.args), ast.Load()), node))
        if isinstance(listed, Words):
            spread = listed
        several = len(node.args) > 1 and all(
            isinstance(one, ast.Starred) or not isinstance(self.values.of(one), Words) for one in node.args
        )
        if (before or name in _SPREAD or name in self.runners) and several and not any(" " in word for word in spread.words[:1]):
            yield spread
            return
        for one in (*plain[:3], *named):
            yield from self.values.all_of(one)

    def _judge(self, value: Value, before: list[str] | None = None) -> Iterator[Hit]:
        prefix = before or []
        shell = ShellText()
        if isinstance(value, Text):
            text = " ".join([*prefix, value.text])
            for hit in shell.hits(text):
                yield Hit(value.line_of(hit.line - 1), max(value.line_of(hit.end_line - 1), value.node.lineno), hit.rule, hit.what)
        elif isinstance(value, Words) and value.words:
            words = [*prefix, *value.words]
            line = value.node.lineno
            lines = [line] * len(prefix) + list(value.lines)
            if len(words) == 1 and " " in words[0]:
                yield from shell.hits(words[0], lines[0])
            else:
                yield from shell.hits_of_words(words, lines, value.node.end_lineno or line)

    def _runners(self) -> dict[str, list[str]]:
        """Return the file's own functions that run what they are given, with the words that they put in front of it."""
        found: dict[str, list[str]] = {}
        for _ in range(2):
            for node in ast.walk(self.tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (before := self._before(node, found)) is not None:
                    found[node.name] = before
        return found

    def _before(self, function: ast.FunctionDef | ast.AsyncFunctionDef, known: dict[str, list[str]]) -> list[str] | None:
        given = [one.arg for one in (*function.args.posonlyargs, *function.args.args) if one.arg not in ("self", "cls")][:1]
        spread = function.args.vararg.arg if function.args.vararg else None
        names = {*given, *([spread] if spread else [])}
        if not names:
            return None
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            called = dotted(node.func).rsplit(".", 1)[-1]
            if called not in _RUNS and called not in known:
                continue
            outer = known.get(called, [])
            for argument in node.args[:2]:
                one = argument.value if isinstance(argument, ast.Starred) else argument
                if isinstance(one, ast.Name) and one.id not in names:
                    assigned = [v for v in self.values.assigned_to(one.id) if _is_inside(v, function)]
                    one = assigned[-1] if assigned else one
                if isinstance(one, ast.Name) and one.id in names:
                    return list(outer)
                if isinstance(one, ast.BinOp) and isinstance(one.left, ast.List):
                    right = one.right.args[0] if isinstance(one.right, ast.Call) and one.right.args else one.right
                    one = ast.List([*one.left.elts, ast.Starred(right, ast.Load())], ast.Load())
                if isinstance(one, ast.List | ast.Tuple):
                    for position, item in enumerate(one.elts):
                        inner = item.value if isinstance(item, ast.Starred) else item
                        if isinstance(inner, ast.Name) and inner.id in names and position > 0:
                            front = self.values.listed(node, one.elts[:position]).words
                            if program(front[0]) in ENGINES | COMPOSE | SHELLS | {"sudo"}:
                                return [*outer, *front] if isinstance(item, ast.Starred) or spread == inner.id else None
                match one:
                    case ast.JoinedStr([ast.Constant(head), ast.FormattedValue(ast.Name(id))]) if id in names:
                        return [*outer, *str(head).split()]
                    case _:
                        pass
        return None

    def _quiet_nodes(self) -> set[int]:
        """Return what only speaks of commands: comparisons, asserts, decorators' data, raised errors."""
        quiet: set[int] = set()
        for node in ast.walk(self.tree):
            inside: list[ast.AST] = []
            match node:
                case ast.Compare():
                    inside = [node]
                case ast.Raise(exc=ast.expr() as error):
                    inside = [error]
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    inside = list(node.decorator_list)
                case ast.Call() if dotted(node.func).rsplit(".", 1)[-1].startswith(("assert_", "assertEqual", "assertIn")):
                    inside = list(node.args)
                case _:
                    continue
            quiet |= {id(one) for part in inside for one in ast.walk(part) if isinstance(one, ast.List | ast.Tuple)}
        return quiet


def _is_program(word: str) -> bool:
    return program(word) in ENGINES | COMPOSE and " " not in word


def _is_inside(node: ast.expr, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return function.lineno <= node.lineno <= (function.end_lineno or function.lineno)
