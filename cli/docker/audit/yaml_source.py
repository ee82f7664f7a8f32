"""Finds what is dangerous in YAML: compose files, workflows (GitHub, GitLab, CircleCI, Azure), Ansible, Taskfiles; and JSON of packages.

Read by a YAML parser that keeps lines. What is a command is known by its key (`run`, `script`, `command`, ...).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

import yaml

from isolation_monitor.cli.docker.audit import javascript_source, python_source
from isolation_monitor.cli.docker.audit.command_line import SHELLS
from isolation_monitor.cli.docker.audit.engine_words import COMPOSE, ENGINES, is_no_time, is_sigkill, program
from isolation_monitor.cli.docker.audit.rules import Hit
from isolation_monitor.cli.docker.audit.shell import ShellText
from isolation_monitor.cli.docker.audit.unknown import HOLE

_COMMAND_KEYS: Final = frozenset([
        "run", "script", "scripts", "before_script", "after_script", "command", "commands", "cmd", "cmds", "entrypoint", "bash",
        "sh", "shell", "args", "exec", "test", "inline", "inlinescript", "pre_script", "post_script", "pre_build", "build",
        "post_build", "install", "before_install", "after_success", "after_failure", "after_script", "before_deploy", "deploy",
        "cleanup", "setup", "teardown", "before", "after", "pre", "post", "start", "stop", "up", "down", "preconditions", "defer",
        "raw", "ansible.builtin.shell", "ansible.builtin.command", "ansible.builtin.raw", "ansible.legacy.command",
        "ansible.legacy.shell", "task", "entry", "healthcheck", "pre_start", "post_start", "pre_stop", "postcreatecommand",
        "poststartcommand", "initializecommand", "oncreatecommand", "postattachcommand", "pwsh", "powershell",
        "runcmd", "bootcmd",
    ])  # fmt: skip
# Whatever their keys are called, these are values for others.
_DATA_KEYS: Final = frozenset({"environment", "env", "variables", "labels", "annotations", "matrix"})
_EXPRESSION = re.compile(r"\$\{\{.*?\}\}|\{\{.*?\}\}", re.S)
_SCRIPT = re.compile(r"#!\S*(?:/|env )(?:ba|da|z|k|a)?sh\b")
_MAX_NODES: Final = 200_000


class UnreadableYaml(Exception):
    """It is no YAML that this parser knows."""


def hits(text: str) -> Iterator[Hit]:
    """Yield what is found in a YAML file of one or more documents.

    Raises:
        UnreadableYaml: it cannot be parsed, as where it is a template of YAML.
    """
    # Tabs that indent JSON would stop the parser; the lines stay what they are.
    text = re.sub(r"(?m)^[ ]*\t+[ \t]*", lambda found: " " * len(found[0]), text) if text.lstrip().startswith(("{", "[")) else text
    if text.lstrip().startswith(("{", "/")):
        text = re.sub(r"(?m)^[ \t]*//.*$", "", text)  # JSON with comments
    try:
        documents = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise UnreadableYaml(f"no YAML at line {mark.line + 1}" if mark else "no YAML") from None
    for document in documents:
        if document is not None:
            yield from _Document(text).hits(document)


class _Document:
    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._seen: set[int] = set()

    def hits(self, node: yaml.Node) -> Iterator[Hit]:
        if isinstance(node, yaml.MappingNode):
            services = next((value for key, value in node.value if _text(key) == "services"), None)
            if isinstance(services, yaml.MappingNode):
                for _, service in services.value:
                    yield from self._service(service)
        yield from self._walk(node, "")

    def _service(self, service: yaml.Node) -> Iterator[Hit]:
        """Judge how a service of a compose file is stopped; merged keys (`<<`) are judged where they are written."""
        if not isinstance(service, yaml.MappingNode) or id(service) in self._seen:
            return
        for key, value in service.value:
            name, line = _text(key), key.start_mark.line + 1
            if name == "<<":
                for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    yield from self._service(one)
            if name == "stop_grace_period" and is_no_time(_text(value)):
                yield Hit(line, line, "stop-without-grace", f"stop_grace_period: {_text(value)}")
            if name == "stop_signal" and is_sigkill(_text(value)):
                yield Hit(line, line, "kill-as-stop-signal", f"stop_signal: {_text(value)}")

    def _walk(self, node: yaml.Node, key: str) -> Iterator[Hit]:
        # An anchor is one node, however often it is used.
        if id(node) in self._seen or len(self._seen) > _MAX_NODES:
            return
        self._seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                yield from self._walk(item, key)
        if not isinstance(node, yaml.MappingNode):
            return
        step = {_text(name): value for name, value in node.value}
        yield from self._ansible(node)
        shell = (_text(step["shell"]) or "") if "shell" in step and "run" in step else ""
        uses = _text(step["uses"]) if "uses" in step else None
        if uses and "github-script" in uses and isinstance(step.get("with"), yaml.MappingNode):
            for name, value in step["with"].value:
                if _text(name) == "script":
                    self._seen.add(id(step["with"]))
                    yield from self._embedded(value, javascript_source.hits)
        for name_node, value in node.value:
            # Bitbucket writes after-script.
            name = (_text(name_node) or "").lower().replace("-", "_")
            if name in _DATA_KEYS:
                continue
            if name in _COMMAND_KEYS or key == "scripts":
                if name == "run" and shell.startswith("python"):
                    yield from self._embedded(value, python_source.hits)
                    continue
                yield from self._commands(value)
            if name not in _COMMAND_KEYS and _SCRIPT.match(_text(value) or ""):
                # A script that is written somewhere: cloud-init's write_files, a ConfigMap.
                yield from self._commands(value)
            yield from self._walk(value, name)

    def _commands(self, node: yaml.Node) -> Iterator[Hit]:
        """Judge a value that is run: a script, a list of scripts, or a command line given as words."""
        reader = ShellText()
        if isinstance(node, yaml.ScalarNode):
            yield from reader.hits(*self._script(node))
            return
        if not isinstance(node, yaml.SequenceNode):
            return
        items = [item for item in node.value if isinstance(item, yaml.ScalarNode)]
        words = [_without_expressions(item.value) for item in items]
        if words and " " not in words[0].strip() and program(words[0]) in ENGINES | COMPOSE | SHELLS | {"cmd", "cmd-shell", "sudo"}:
            lines = [self._script(item)[1] for item in items]
            if words[0] in ("CMD", "CMD-SHELL"):
                if words[0] == "CMD-SHELL" and len(words) > 1:
                    yield from reader.hits(words[1], lines[1])
                    return
                words, lines = words[1:], lines[1:]
            found = list(reader.hits_of_words(words, lines, lines[-1])) if words else []
            if found:
                yield from found
                return
        for item in items:
            yield from reader.hits(*self._script(item))
        for item in node.value:
            if isinstance(item, yaml.SequenceNode):
                yield from self._commands(item)

    def _script(self, node: yaml.ScalarNode) -> tuple[str, int]:
        """Return a scalar as a shell's text, and the line of its beginning."""
        line = node.start_mark.line + 1
        if node.style == "|":
            line += 1
        elif node.style == ">":
            # Folded: lines were joined. As it stands in the file, the lines are right again, and a line that goes on is marked so.
            raw = self._lines[line : node.end_mark.line]
            return _without_expressions(" \\\n".join(one.strip() for one in raw)), line + 1
        # Compose writes $$ for a $ of the container's shell.
        return _without_expressions(node.value).replace("$$", "$"), line

    def _embedded(self, node: yaml.Node, read: Callable[[str], Iterator[Hit]]) -> Iterator[Hit]:
        if not isinstance(node, yaml.ScalarNode):
            return
        text, line = self._script(node)
        self._seen.add(id(node))
        try:
            for hit in list(read(text.replace(HOLE, "_"))):
                yield Hit(hit.line + line - 1, hit.end_line + line - 1, hit.rule, hit.what)
        except SyntaxError:
            return

    def _ansible(self, node: yaml.MappingNode) -> Iterator[Hit]:
        """Judge the modules of Ansible's Docker collection."""
        for name, module in node.value:
            kind = (_text(name) or "").rsplit(".", 1)[-1]
            if not kind.startswith(("docker_", "podman_")) or not isinstance(module, yaml.MappingNode):
                continue
            given = {_text(key): (_text(value) or "", key.start_mark.line + 1) for key, value in module.value}
            for option in ("force_kill", "forcekill"):
                if option in given and _is_true(given[option][0]):
                    yield Hit(given[option][1], given[option][1], "kill", f"{kind}: {option}: {given[option][0]}")
            if "stop_timeout" in given and is_no_time(given["stop_timeout"][0]):
                yield Hit(given["stop_timeout"][1], given["stop_timeout"][1], "stop-without-grace", f"{kind}: stop_timeout: 0")
            if kind.startswith("docker_compose") and "remove_volumes" in given and _is_true(given["remove_volumes"][0]):
                yield Hit(given["remove_volumes"][1], given["remove_volumes"][1], "compose-down-volumes", f"{kind}: remove_volumes: true")
            if kind in ("docker_prune", "podman_prune"):
                line = name.start_mark.line + 1
                yield Hit(line, line, "prune-without-asking", f"{kind}")


def _text(node: yaml.Node) -> str | None:
    return node.value if isinstance(node, yaml.ScalarNode) else None


def _without_expressions(text: str) -> str:
    return _EXPRESSION.sub(lambda found: HOLE + "\n" * found[0].count("\n"), text)


def _is_true(text: str) -> bool:
    return text.lower() in ("true", "yes", "on", "1")
