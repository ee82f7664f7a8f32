"""Finds what is dangerous in code that is only split into tokens: commands given to calls that run them, and calls of Docker's libraries.

For JavaScript and TypeScript (child_process, execa, zx, dockerode), Go, Groovy and Jenkinsfiles, Ruby, PHP, Java, Kotlin, C#, Rust, Perl,
Lua, Elixir, Dart, C and C++, and for Python that Python 3 cannot parse.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from typing import Final

from isolation_monitor.cli.docker.audit.code_tokens import RUBY, Language, Token, tokens
from isolation_monitor.cli.docker.audit.engine_words import is_no_time, is_sigkill
from isolation_monitor.cli.docker.audit.rules import Hit
from isolation_monitor.cli.docker.audit.shell import ShellText
from isolation_monitor.cli.docker.audit.unknown import HOLE, value_of_unknown

_RUNS: Final = frozenset([
        "exec", "execSync", "execFile", "execFileSync", "spawn", "spawnSync", "fork", "execa", "execaSync", "execaCommand",
        "execaCommandSync", "$", "shell", "system", "popen", "popen2", "sh", "bash", "bat", "powershell", "pwsh", "Command",
        "CommandContext", "ProcessBuilder", "Process", "Start", "StartProcess", "getRuntime", "passthru", "shell_exec", "proc_open",
        "call", "check_call", "check_output", "Popen", "run", "runCommand", "run_command", "execAsync", "execPromise",
        "execCommand", "execute", "command", "cmd", "arg", "args", "spawnPromise", "asyncExec", "promisifiedExec", "capture2",
        "capture2e", "capture3", "popen2e", "popen3", "pipeline", "getoutput", "commandLine", "ProcessStartInfo",
        "fromShellCommandline", "runCmd", "RunCmd", "RunCommand", "execCmd", "ExecCmd", "mustRun", "MustRun", "mustExec",
        "execFileAsync", "execFilePromise", "spawnAsync", "runShell", "execShell",
    ])  # fmt: skip
_REMOVES: Final = {"ContainerRemove": "forced-remove", "ImageRemove": "forced-remove-image", "VolumeRemove": "forced-remove-volume"}
_PRUNES: Final = frozenset(
    ["pruneContainers", "pruneVolumes", "pruneImages", "pruneNetworks", "ContainersPrune", "VolumesPrune", "ImagesPrune", "NetworksPrune"]
)
_LIBRARIES: Final = ("dockerode", "docker/docker", "docker-modem", "testcontainers", "moby/moby", "dockerjava", "Docker.DotNet", "bollard")
_LISTS: Final = frozenset({"[", "{", "new", "vec!", "array", "Arrays", "List", "listOf", "mutableListOf", "arrayOf"})
_MAX_ARGUMENTS: Final = 400
_MAX_DEPTH: Final = 4
_MAX_VALUES: Final = 4


@dataclass(frozen=True, slots=True)
class _Argument:
    tokens: tuple[Token, ...]

    @property
    def is_list(self) -> bool:
        return bool(self.tokens) and self.tokens[0].text in _LISTS


class _Code:
    def __init__(self, text: str, language: Language) -> None:
        self.all = list(_without_types(list(tokens(text, language))))
        self._calls_bare = language.runs == RUBY.runs
        self._has_tags = language.has_regex
        self.uses_library = any(name in text for name in _LIBRARIES)
        self.values: dict[str, list[tuple[Token, ...]]] = {}
        self.containers: set[str] = set()
        self._learn()

    def hits(self) -> Iterator[Hit]:
        for at, token in enumerate(self.all):
            following = self.all[at + 1] if at + 1 < len(self.all) else None
            if token.kind == "run":
                yield from self._text(token)
            elif token.kind == "text" and [one.text for one in self.all[at + 1 : at + 4]] == [".", "execute", "("]:
                yield from self._text(token)  # Groovy: "docker kill web".execute()
            elif token.text == "FileName" and token.kind == "name":
                yield from self._start_info(at)
            if self._calls_bare and token.text in ("kill", "kill!") and (following is None or following.text not in ("(", "?")):
                given = self._given(at)
                yield from self._library(at, "kill", [_Argument(part) for part in _split(given) if part], at + len(given))
            if following is None or token.kind != "name":
                continue
            if following.text == "(":
                yield from self._call(at)
            elif following.kind == "text" and (
                token.text in ("sh", "bash", "bat", "powershell", "system", "exec") or (self._has_tags and self._is_tag(at))
            ):
                # zx and execa: $`docker rm -f ${id}`; Jenkins and Ruby: sh '...', system "..."
                yield from self._bare(at)
            elif following.text == ":" and token.text == "script" and at + 2 < len(self.all) and self.all[at + 2].kind == "text":
                yield from self._text(self.all[at + 2])

    def _given(self, at: int) -> list[Token]:
        """Return what stands behind a name to the end of its line; of a line that ends in a comma, the next one's, too."""
        given: list[Token] = []
        for token in self.all[at + 1 : at + 1 + _MAX_ARGUMENTS]:
            last = given[-1] if given else self.all[at]
            if token.line > last.end_line and last.text != ",":
                break
            given.append(token)
        return given

    def _bare(self, at: int) -> Iterator[Hit]:
        """Judge a call without parentheses: one text is a line for the shell, several are its words (Ruby: `system "docker", "kill"`)."""
        given = self._given(at)
        arguments = [_Argument(part) for part in _split(given) if part] if self._calls_bare else []
        if len(arguments) > 1:
            yield from self._judge_words([word for argument in arguments for word in self._words(argument)], at, at + len(given))
        else:
            yield from self._text(self.all[at + 1])

    def _start_info(self, at: int) -> Iterator[Hit]:
        """Judge .NET's `new ProcessStartInfo { FileName = "docker", Arguments = "kill " + id }`."""
        if at + 2 >= len(self.all) or self.all[at + 1].text != "=" or self.all[at + 2].kind != "text":
            return
        following = list(takewhile(lambda token: token.text not in ("}", ";"), self.all[at + 3 : at + 3 + _MAX_ARGUMENTS]))
        starts = [n + 2 for n, token in enumerate(following[:-2]) if token.text == "Arguments" and following[n + 1].text == "="]
        for start in starts[:1]:
            value = next(_split(following[start:]), ())
            for text in self._texts(_Argument(value))[:1]:
                yield from self._text(Token("text", f"{self.all[at + 2].text} {text.text}", text.line, text.line))

    def _is_tag(self, at: int) -> bool:
        return self.all[at].text in ("execa", "execaSync") or self.all[at].text.startswith("$")

    def _call(self, at: int) -> Iterator[Hit]:
        name = self.all[at].text.rstrip("!?")
        if name == "new" and at >= 2 and self.all[at - 1].text == "::":
            name = self.all[at - 2].text  # Rust: Command::new("docker")
        arguments, end = self._arguments(at + 2)
        yield from self._library(at, name, arguments, end)
        engine = value_of_unknown(name)
        if name in ("arg", "args") and (started := self._started(at)) is not None:
            words = [started, *(word for argument in arguments for word in self._words(argument))]
            yield from self._judge_words(words, at, end)
            return
        if name in ("delete", "post") and arguments:
            for text in self._texts(arguments[0]):
                if re.search(r"/containers/|/prune\b", text.text):
                    # The engine's own API, by axios, got and the like; judged as curl's call of it.
                    yield from self._text(Token("text", f"curl -X {name.upper()} {shlex.quote(text.text)}", text.line, text.line))
        if name not in _RUNS and engine == HOLE:
            return
        if arguments and arguments[0].is_list:
            # Groovy's and Java's lists; an array as the only argument, also of a function that is called as the engine.
            words = [*([] if engine == HOLE else [(engine, self.all[at].line)]), *self._words(arguments[0])]
            yield from self._judge_words(words, at, end)
            return
        if name in ("Start", "ProcessStartInfo") and len(arguments) > 1:
            # .NET takes all arguments as one text.
            texts = [token for argument in arguments[:2] for token in self._texts(argument)[:1]]
            if len(texts) == 2:
                yield from self._text(Token("text", f"{texts[0].text} {texts[1].text}", texts[1].line, texts[1].line))
            return
        before = [] if engine == HOLE else [(engine, self.all[at].line)]
        words = [word for argument in arguments for word in self._words(argument)]
        if before:
            # A test, a context, a logger come first: runDocker(t, ctx, "rm", "-f", id).
            words = list(dropwhile(lambda word: word[0] == HOLE, words))
        if name == "Command" and self._chained(end):
            yield from self._judge_words(words, at, end)
            return
        if len(arguments) <= 1 or (words and " " in words[0][0].strip() and not before):
            for argument in arguments[:1]:
                for text in self._texts(argument):
                    if not before:
                        yield from self._text(text)
            if before and words:
                yield from self._judge_words([*before, *words], at, end)
            return
        yield from self._judge_words([*before, *words], at, end)

    def _judge_words(self, words: Sequence[tuple[str, int]], at: int, end: int) -> Iterator[Hit]:
        if not words:
            return
        # Rust and Go builders: Command::new("docker").args([...]) gives the rest in later calls.
        words = [*words, *self._chained(end)]
        texts = [word for word, _ in words]
        if not any(texts):
            return
        for hit in ShellText().hits_of_words(texts, [line for _, line in words], self.all[min(end, len(self.all) - 1)].line):
            yield Hit(hit.line, hit.end_line, hit.rule, hit.what, self.all[at].line)

    def _started(self, at: int) -> tuple[str, int] | None:
        """Return the program of a command that a name holds, in front of `.args(...)`: `let mut cmd = Command::new("docker")`."""
        if at < 2 or self.all[at - 1].text != "." or self.all[at - 2].kind != "name":
            return None
        value = next(reversed(self._known(self.all[at - 2])), ())
        if [token.text for token in value[-6:-2]] != ["Command", "::", "new", "("] or value[-2].kind != "text":
            return None
        return value[-2].text, self.all[at].line

    def _chained(self, end: int) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        for name, arguments in self._calls_after(end):
            if name in ("arg", "args", "command"):
                found += [word for argument in arguments for word in self._words(argument)]
        return found

    def _calls_after(self, end: int) -> Iterator[tuple[str, list[_Argument]]]:
        """Yield the calls that are chained to one that closes at `end`."""
        at = end + 1
        while at + 2 < len(self.all) and self.all[at].text == "." and self.all[at + 2].text == "(":
            arguments, closing = self._arguments(at + 3)
            yield self.all[at + 1].text, arguments
            at = closing + 1

    def _text(self, token: Token) -> Iterator[Hit]:
        spans = token.end_line > token.line
        for hit in ShellText().hits(token.text):
            line = token.line + (hit.line - 1 if spans else 0)
            yield Hit(line, max(line, token.end_line if not spans else line + hit.end_line - hit.line), hit.rule, hit.what)

    def _texts(self, argument: _Argument, depth: int = 0) -> list[Token]:
        """Return an argument as texts: a string, strings put together, or a name that holds one."""
        parts = argument.tokens
        if len(parts) == 1 and parts[0].kind == "name":
            # A name may be set to itself, by way of others.
            known = self._known(parts[0])[-_MAX_VALUES:] if depth < _MAX_DEPTH else []
            return [token for value in known for token in self._texts(_Argument(value), depth + 1)]
        if (
            len(parts) > 4
            and parts[0].text == "["
            and [part.text for part in parts[-5:-2]] == [".", "join", "("]
            and parts[-2].kind == "text"
        ):
            joined = parts[-2].text.join(part.text for part in parts[:-5] if part.kind == "text")
            return [Token("text", joined, parts[0].line, parts[0].line)]
        if not parts or not any(part.kind == "text" for part in parts) or any(part.text in ("(", "[", "{") for part in parts[:1]):
            return []
        if len(parts) == 1:
            return [parts[0]]
        text = "".join(part.text if part.kind == "text" else value_of_unknown(part.text) for part in parts if part.text not in ("+", "."))
        return [Token("text", text, parts[0].line, parts[0].line)]

    def _words(self, argument: _Argument, depth: int = 0) -> list[tuple[str, int]]:
        """Return an argument as words: a string is one, a list is many, anything else is one hole."""
        parts = _unspread(tuple(dropwhile(lambda part: part.text == "&", argument.tokens)))
        argument = _Argument(parts)
        if len(parts) == 1 and parts[0].kind == "text":
            return [(parts[0].text, parts[0].line)]
        if len(parts) == 1 and parts[0].kind == "name":
            known = self._known(parts[0]) if depth < _MAX_DEPTH else []
            return self._words(_Argument(known[-1]), depth + 1) if known else [(value_of_unknown(parts[0].text), parts[0].line)]
        if len(parts) > 2 and parts[0].text == "append" and parts[1].text == "(":
            # Go: args = append(args, "-f", name)
            return [word for one in _split(parts[2:-1]) for word in self._words(_Argument(one), depth + 1)]
        if argument.is_list:
            if parts[0].text == "{" and any(part.text == ":" for part in parts):
                return []  # an object of options
            return [(part.text, part.line) for part in parts if part.kind == "text"] or [(HOLE, parts[0].line)]
        texts = self._texts(argument, depth)
        return [(texts[0].text, texts[0].line)] if texts else [(HOLE, parts[0].line)] if parts else []

    def _known(self, name: Token) -> list[tuple[Token, ...]]:
        """Return what a name may hold where it stands: what it was set to above, the nearest last, or else anywhere."""
        known = self.values.get(name.text, [])
        # A function further down has a variable of the same name.
        above = [value for value in known if value and value[-1].end_line < name.line]
        return above or [value for value in known if name not in value]

    def _flat(self, arguments: Sequence[_Argument]) -> str:
        """Return arguments as one text without blanks; a name alone as what it holds, such as the options of a call."""
        found: list[str] = []
        for argument in arguments:
            parts = tuple(dropwhile(lambda part: part.text in ("&", "*"), argument.tokens))
            known = self._known(parts[0]) if len(parts) == 1 and parts[0].kind == "name" else []
            found += ["".join(token.text for token in (known[-1] if known else argument.tokens))]
        return "".join(found)

    def _library(self, at: int, name: str, arguments: Sequence[_Argument], end: int) -> Iterator[Hit]:
        if at < 1 or self.all[at - 1].text not in (".", "?.", "->", "::"):
            return
        receiver = self._receiver(at)
        flat = self._flat(arguments)
        forced = re.search(r"\b[fF]orce[\"']?(?::|=>?)(?:true|1)\b", flat) is not None
        line, last = self.all[at].line, self.all[min(end, len(self.all) - 1)].line
        shown = f"{receiver[-1] if receiver else '...'}.{name}"
        is_container = any(re.search(r"container", part, re.I) or part in self.containers for part in receiver)
        is_volume = any(re.search(r"volume", part, re.I) for part in receiver)
        if name in _REMOVES and (forced or (name == "VolumeRemove" and flat.endswith("true"))):
            yield Hit(line, last, _REMOVES[name], f"{shown}(force: true)")
        elif name in _PRUNES:
            yield Hit(line, last, "prune-without-asking", f"{shown}()")
        elif name == "ContainerKill" and (is_sigkill(self._last_text(arguments)) or not self._last_text(arguments)):
            yield Hit(line, last, "kill", f"{shown}()")
        elif (found := self._builder(name, receiver, flat, end) or _dotnet(name, flat, forced=forced)) is not None:
            yield Hit(line, last, found, f"{shown}({flat if len(flat) < 8 else '...'})")
        elif name in ("remove_container", "containerDelete") and forced:
            yield Hit(line, last, "forced-remove", f"{shown}(force: true)")
        elif name == "kill_container" and (not self._last_text(arguments) or is_sigkill(self._last_text(arguments))):
            yield Hit(line, last, "kill", f"{shown}()")
        elif name in ("remove", "delete") and forced and (self.uses_library or is_container):
            rule = "forced-remove-volume" if is_volume and not is_container else "forced-remove"
            image = any(re.search(r"image", part, re.I) for part in receiver)
            yield Hit(line, last, "forced-remove-image" if image and not is_container else rule, f"{shown}({{ force: true }})")
        elif name == "kill" and is_container and (self.uses_library or re.search(r"container$", receiver[-1] if receiver else "", re.I)):
            signal = self._last_text(arguments)
            if not signal or is_sigkill(signal):
                yield Hit(line, last, "kill", f"{shown}()")
        elif (
            name in ("stop", "restart")
            and is_container
            and (time := re.search(r"\b(?:t|timeout)[\"']?:(\d+)", flat))
            and is_no_time(time[1])
        ):
            yield Hit(line, last, "stop-without-grace", f"{shown}({{ {time[0].replace(':', ': ')} }})")

    def _builder(self, name: str, receiver: Sequence[str], flat: str, end: int) -> str | None:
        """Return the rule that a command of docker-java breaks: `removeContainerCmd(id).withForce(true).exec()`."""
        command = next((part for part in reversed(receiver) if part.endswith("Cmd")), "")
        if name == "withForce" and flat in ("", "true"):
            return {"removeContainerCmd": "forced-remove", "removeImageCmd": "forced-remove-image"}.get(command)
        if name == "withTimeout" and is_no_time(flat) and command in ("stopContainerCmd", "restartContainerCmd"):
            return "stop-without-grace"
        if name == "pruneCmd":
            return "prune-without-asking"
        if name != "killContainerCmd":
            return None
        signal = next((self._last_text(given) for called, given in self._calls_after(end) if called == "withSignal"), "")
        return "kill" if not signal or is_sigkill(signal) else None

    @staticmethod
    def _last_text(arguments: Sequence[_Argument]) -> str:
        return next((token.text for argument in reversed(arguments) for token in reversed(argument.tokens) if token.kind == "text"), "")

    def _receiver(self, at: int) -> list[str]:
        """Return the names before a method, nearest last: `docker.getContainer(id).kill` gives docker, getContainer."""
        found: list[str] = []
        at -= 1
        depth = 0
        while at >= 0 and len(found) < 8:
            token = self.all[at]
            if token.text in (")", "]"):
                depth += 1
            elif token.text in ("(", "["):
                depth -= 1
                if depth < 0:
                    break
            elif depth == 0:
                if token.kind == "name" and token.text not in ("await", "return", "new"):
                    found.insert(0, token.text)
                    if at >= 1 and self.all[at - 1].text not in (".", "?.", "->", "::"):
                        break
                elif token.text not in (".", "?.", "->", "::", "?"):
                    break
            at -= 1
        return found

    def _arguments(self, start: int) -> tuple[list[_Argument], int]:
        """Return the arguments of a call, and where its closing mark stands."""
        found: list[_Argument] = []
        current: list[Token] = []
        depth = 0
        for at in range(start, min(len(self.all), start + _MAX_ARGUMENTS)):
            token = self.all[at]
            if token.kind == "mark" and token.text in ("(", "[", "{"):
                depth += 1
            elif token.kind == "mark" and token.text in (")", "]", "}"):
                if depth == 0:
                    return [*found, *([_Argument(tuple(current))] if current else [])], at
                depth -= 1
            if token.kind == "mark" and token.text == "," and depth == 0:
                found.append(_Argument(tuple(current)))
                current = []
                continue
            current.append(token)
        return [], start

    def _learn(self) -> None:
        """Remember what names are set to, up to the end of the statement."""
        for at in range(1, len(self.all) - 1):
            if self.all[at].text not in ("=", ":=") or self.all[at - 1].kind != "name":
                continue
            value: list[Token] = []
            depth = 0
            for token in self.all[at + 1 : at + 1 + _MAX_ARGUMENTS]:
                depth += (token.text in ("(", "[", "{") and token.kind == "mark") - (token.text in (")", "]", "}") and token.kind == "mark")
                if (
                    depth < 0
                    or (depth == 0 and (token.text in (";", ",") or token.text in _STATEMENTS))
                    or (
                        depth == 0
                        and value
                        and token.line > value[-1].end_line
                        and value[-1].text != "+"
                        and token.text not in ("+", ".", ")", "]", "}")
                    )
                ):
                    break
                value.append(token)
            name = self.all[at - 1].text
            self.values.setdefault(name, []).append(tuple(value))
            if any(token.text in ("getContainer", "createContainer") for token in value):
                self.containers.add(name)


def _dotnet(name: str, flat: str, *, forced: bool) -> str | None:
    """Return the rule that a call of Docker.DotNet breaks."""
    if name in ("RemoveContainerAsync", "DeleteImageAsync", "RemoveVolumeAsync") and (forced or flat.endswith(",true")):
        kinds = {"DeleteImageAsync": "forced-remove-image", "RemoveVolumeAsync": "forced-remove-volume"}
        return kinds.get(name, "forced-remove")
    if name == "KillContainerAsync":
        signal = re.search(r"\bSignal=([\w+]+)", flat)
        return "kill" if signal is None or is_sigkill(signal[1]) else None
    if name in ("StopContainerAsync", "RestartContainerAsync") and re.search(r"\bWaitBeforeKillSeconds=0\b", flat):
        return "stop-without-grace"
    return "prune-without-asking" if re.fullmatch(r"Prune(?:Containers|Volumes|Images|Networks)Async", name) else None


def _without_types(every: list[Token]) -> Iterator[Token]:
    """Leave out what a call says of its types in Rust: `kill_container::<String>(id)`."""
    at = 0
    while at < len(every):
        if every[at].text == "::" and at + 1 < len(every) and every[at + 1].text == "<":
            end = next((n for n in range(at + 2, min(len(every) - 1, at + 30)) if every[n].text == ">" and every[n + 1].text == "("), None)
            if end is not None:
                at = end + 1
        yield every[at]
        at += 1


def _unspread(parts: tuple[Token, ...]) -> tuple[Token, ...]:
    """Return an argument without the dots of `...args` (JavaScript) and `args...` (Go)."""
    dots = [part.text == "." for part in parts]
    if dots[:3] == [True] * 3:
        return parts[3:]
    return parts[:-3] if dots[-3:] == [True] * 3 else parts


def _split(parts: Sequence[Token]) -> Iterator[tuple[Token, ...]]:
    """Yield what stands between the commas of the outermost level."""
    current: list[Token] = []
    depth = 0
    for part in parts:
        if part.kind == "mark":
            depth += (part.text in ("(", "[", "{")) - (part.text in (")", "]", "}"))
        if part.kind == "mark" and part.text == "," and depth == 0:
            yield tuple(current)
            current = []
        else:
            current.append(part)
    if current:
        yield tuple(current)


_STATEMENTS: Final = frozenset({"const", "let", "var", "return", "if", "for", "await ", "function", "def"})


def hits(text: str, language: Language) -> Iterator[Hit]:
    """Yield what is found in a source text of a language."""
    yield from _Code(text, language).hits()
