"""Judges one command line of Docker, Podman, nerdctl or Compose, given as its words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

from isolation_monitor.cli.docker.audit.options import Options, read_options
from isolation_monitor.cli.docker.audit.unknown import HOLE

ENGINES: Final = frozenset({"docker", "podman", "nerdctl", "podman-remote"})
COMPOSE: Final = frozenset({"docker-compose", "podman-compose"})

_GLOBAL_VALUES: Final = frozenset([
        "H", "host", "context", "c", "config", "l", "log-level", "tlscacert", "tlscert", "tlskey", "url", "connection", "identity",
        "root", "runroot", "n", "namespace", "a", "address",
    ])  # fmt: skip
_COMPOSE_VALUES: Final = frozenset([
        "f", "file", "p", "project-name", "profile", "env-file", "project-directory", "ansi", "parallel", "progress", "c",
        "context", "H", "host",
    ])  # fmt: skip
_GROUPS: Final = frozenset({"container", "volume", "network", "image", "system", "pod"})
_REMOVE: Final = frozenset({"rm", "remove"})
_FORCED_REMOVE: Final = MappingProxyType(
    {
        "container": "forced-remove",
        "pod": "forced-remove",
        "volume": "forced-remove-volume",
        "network": "forced-remove-network",
        "image": "forced-remove-image",
    }
)
# Switches of `run`, `create` and `exec`; every other option of theirs takes a value.
_RUN_SWITCHES: Final = frozenset([
        "d", "detach", "i", "interactive", "t", "tty", "rm", "init", "privileged", "P", "publish-all", "read-only",
        "no-healthcheck", "oom-kill-disable", "sig-proxy", "q", "quiet", "disable-content-trust", "replace", "T", "no-TTY",
        "no-deps", "service-ports", "build", "remove-orphans", "use-aliases", "quiet-pull",
    ])  # fmt: skip
_SECONDS_OF: Final = MappingProxyType({"": 1.0, "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0})


@dataclass(frozen=True, slots=True)
class Verdict:
    """A rule that a command line breaks, and its telling words."""

    rule: str
    what: str


def program(word: str) -> str:
    """Return the program that a word names: without folders and `.exe`."""
    return PurePosixPath(word.replace("\\", "/")).name.lower().removesuffix(".exe")


def is_no_time(text: str | None) -> bool:
    """Whether a duration such as `0`, `0s`, `0m0s` or `0.0` is known to be nothing. A negative one means: wait without end."""
    if text is None:
        return False
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|)", text.strip())
    return bool(parts) and "".join(a + b for a, b in parts) == text.strip() and not any(float(a) * _SECONDS_OF[b] for a, b in parts)


def is_sigkill(text: str | None) -> bool:
    """Whether a signal such as `KILL`, `SIGKILL` or `9` is the one that nobody can catch."""
    # Engines read a number as numbers are read: 09 and +9 are 9.
    return text is not None and re.fullmatch(r"(?:SIG)?(?:KILL|\+?0*9)", text.strip().upper()) is not None


def judge_engine(words: Sequence[str], *, says_yes: bool = False) -> tuple[list[Verdict], int | None]:
    """Judge a command line whose first word is an engine's or Compose's program.

    `says_yes`: something answers its questions, as in `yes | docker system prune`. The second value is where the words of a
    command that runs inside a container begin (`docker exec NAME ...`), if they do.
    """
    name = program(words[0])
    if name in COMPOSE:
        return _compose(words, 1, name)
    outer = read_options(words[1:], _GLOBAL_VALUES, until_operand=True)
    if not outer.rest or outer.is_on("help", "h"):
        return [], None
    at = len(words) - len(outer.rest)
    verb = words[at]
    if verb == "compose":
        return _compose(words, at + 1, f"{name} compose")
    group = "container"
    shown = name
    if verb in _GROUPS:
        if at + 1 >= len(words):
            return [], None
        group, shown = verb, f"{name} {verb}"
        at += 1
        verb = words[at]
    elif verb == "rmi":
        group = "image"
    shown = f"{shown} {verb}"
    if verb in ("run", "exec", "create") and group == "container":
        return _run(words, at + 1, shown)
    judged = _VERBS.get("rm" if verb in _REMOVE or verb == "rmi" else verb)
    options = read_options(words[at + 1 :], _values_of(verb, name))
    if judged is None or options.is_on("help"):
        return [], None
    found = judged(group, options, says_yes)
    return ([] if found is None else [Verdict(found[0], f"{shown} {found[1]}".strip())]), None


def _values_of(verb: str, name: str) -> frozenset[str]:
    if verb in ("stop", "restart"):
        return frozenset({"t", "time", "timeout", "s", "signal", "cidfile", "filter"})
    if verb == "kill":
        return frozenset({"s", "signal", "cidfile"})
    # Podman gives `rm` a time; Docker has no such option there.
    return frozenset({"filter", "cidfile"} | ({"t", "time"} if name.startswith("podman") else set()))


_Found = tuple[str, str] | None


def _remove(group: str, options: Options, says_yes: bool) -> _Found:
    if group not in _FORCED_REMOVE or not options.is_on("f", "force"):
        return None
    return _FORCED_REMOVE[group], "-f" if "f" in options.given else "--force"


def _kill(group: str, options: Options, says_yes: bool) -> _Found:
    signal = options.value("s", "signal")
    if group not in ("container", "pod") or (signal is not None and not is_sigkill(signal)):
        return None
    return "kill", "" if signal is None else f"--signal={signal}"


def _stop(group: str, options: Options, says_yes: bool) -> _Found:
    if group not in ("container", "pod"):
        return None
    if is_no_time(options.value("t", "time", "timeout")):
        return "stop-without-grace", "-t 0"
    return ("kill", f"--signal={options.value('s', 'signal')}") if is_sigkill(options.value("s", "signal")) else None


def _prune(group: str, options: Options, says_yes: bool) -> _Found:
    if group not in _GROUPS or not (says_yes or options.is_on("f", "force")):
        return None
    more = [f"--{word}" for word in ("all", "volumes") if options.is_on(word, word[0] if word == "all" else word)]
    return "prune-without-asking", " ".join(["-f" if options.is_on("f", "force") else "(answered yes)", *more])


def _reset(group: str, options: Options, says_yes: bool) -> _Found:
    """Judge `podman system reset`, which removes everything."""
    return ("prune-without-asking", "-f") if group == "system" and (says_yes or options.is_on("f", "force")) else None


_VERBS: Final[Mapping[str, Callable[[str, Options, bool], _Found]]] = MappingProxyType(
    {"rm": _remove, "kill": _kill, "stop": _stop, "restart": _stop, "prune": _prune, "reset": _reset}
)


def _compose(words: Sequence[str], start: int, shown: str) -> tuple[list[Verdict], int | None]:
    outer = read_options(words[start:], _COMPOSE_VALUES, until_operand=True)
    if not outer.rest or outer.is_on("dry-run", "help", "h"):
        return [], None
    at = len(words) - len(outer.rest)
    verb = words[at]
    shown = f"{shown} {verb}"
    if verb in ("run", "exec"):
        return _run(words, at + 1, shown)
    options = read_options(words[at + 1 :], {"t", "timeout", "time", "s", "signal", "rmi"} if verb != "rm" else set())
    if options.is_on("help", "dry-run"):
        return [], None
    found: list[Verdict] = []
    if verb == "down" and options.is_on("v", "volumes"):
        found.append(Verdict("compose-down-volumes", f"{shown} -v"))
    if verb == "rm" and options.is_on("f", "force"):
        with_volumes = " -v" if options.is_on("v", "volumes") else ""
        found.append(Verdict("compose-forced-remove", f"{shown} -f{with_volumes}"))
    if verb == "kill" and (options.value("s", "signal") is None or is_sigkill(options.value("s", "signal"))):
        found.append(Verdict("kill", shown))
    if verb in ("stop", "down", "restart", "up") and is_no_time(options.value("t", "timeout", "time")):
        found.append(Verdict("stop-without-grace", f"{shown} -t 0"))
    return found, None


def _run(words: Sequence[str], start: int, shown: str) -> tuple[list[Verdict], int | None]:
    """Judge what a container is given to stop by, and find the words that it runs."""
    found: list[Verdict] = []
    at = start
    while at < len(words) and words[at].startswith("-") and words[at] != "--":
        name, equals, value = words[at].lstrip("-").partition("=")
        switches = name in _RUN_SWITCHES or (not words[at].startswith("--") and all(letter in _RUN_SWITCHES for letter in name))
        if not equals and not switches:
            at += 1
            value = words[at] if at < len(words) else HOLE
        if name == "stop-timeout" and is_no_time(value):
            found.append(Verdict("stop-without-grace", f"{shown} --stop-timeout 0"))
        if name == "stop-signal" and is_sigkill(value):
            found.append(Verdict("kill-as-stop-signal", f"{shown} --stop-signal {value}"))
        at += 1
    # The container or image, then what runs in it.
    return found, at + 1 if at + 1 < len(words) else None
