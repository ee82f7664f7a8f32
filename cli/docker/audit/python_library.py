"""Judges calls of Docker's Python libraries: docker and podman, aiodocker, python-on-whales.

Many things have `kill`, `remove` and `prune`: a call counts where its object came from a library's call, or is called a container
or a volume, and a list or a process that happens to have such a method stays quiet.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from isolation_monitor.cli.docker.audit.engine_words import is_no_time, is_sigkill
from isolation_monitor.cli.docker.audit.python_values import dotted
from isolation_monitor.cli.docker.audit.rules import Hit

_LIBRARIES: Final = frozenset({"docker", "aiodocker", "podman", "python_on_whales", "testcontainers"})
_NAMED = re.compile(r"(?:^|[._])(?:\w*_)?(container|ctr|pod)s?(?:\(\)|\[\])*$", re.I)
_MADE = re.compile(
    r"\.?containers?\.(?:run|get|create|list|container|create_or_replace|show)\(\)(?:\[\])*$|\.get_wrapped_container\(\)$|^docker\.(?:run|create)\(\)$"
)
_COLLECTIONS: Final = {
    "containers": "container",
    "container": "container",
    "volumes": "volume",
    "volume": "volume",
    "networks": "network",
    "network": "network",
    "images": "image",
    "image": "image",
    "system": "system",
    "pods": "pod",
}
_FORCED: Final = {"image": "forced-remove-image", "volume": "forced-remove-volume", "network": "forced-remove-network"}
_LOW_LEVEL_REMOVE: Final = {
    "remove_container": "forced-remove",
    "remove_image": "forced-remove-image",
    "remove_volume": "forced-remove-volume",
}
_PRUNES: Final = frozenset({"prune_containers", "prune_volumes", "prune_networks", "prune_images"})


class LibraryCalls:
    """What is known of one file: which libraries it imports, and which names hold containers, volumes, images and clients."""

    def __init__(self, tree: ast.Module) -> None:
        self.imports = _imports(tree)
        self._kinds: dict[str, str] = {}
        self._defaults = _defaults(tree)
        # Twice: a name may be used above the one that it comes from.
        for _ in range(2):
            for node in ast.walk(tree):
                self._learn(node)

    def judge(self, node: ast.Call) -> Iterator[Hit]:
        """Yield what a call breaks."""
        if not isinstance(node.func, ast.Attribute):
            return
        method, receiver = node.func.attr, node.func.value
        keywords = {one.arg: self._resolved(one.value) for one in node.keywords if one.arg is not None}
        found = self._found(method, dotted(receiver), receiver, node, keywords)
        if found is not None:
            rule, shown = found
            # The line of the method: a chain may begin far above it.
            line = node.func.end_lineno or node.lineno
            yield Hit(line, node.end_lineno or line, rule, shown)

    def _found(self, method: str, name: str, receiver: ast.expr, node: ast.Call, keywords: dict[str, ast.expr]) -> tuple[str, str] | None:
        if method in _LOW_LEVEL_REMOVE and _is_true(keywords.get("force")):
            return _LOW_LEVEL_REMOVE[method], f"{name}.{method}(force=True)"
        if method in _PRUNES and self.imports:
            return "prune-without-asking", f"{name}.{method}()"
        kind = self._kind(name)
        if kind is None and method == "remove" and self.imports and _is_true(keywords.get("force")):
            # Nothing else in such a file has a removal by force.
            return "forced-remove", f"{name}.remove(force=True)"
        if kind is None:
            return None
        if method in ("remove", "delete", "rm") and _is_true(keywords.get("force")):
            return _FORCED.get(kind, "forced-remove"), f"{name}.{method}(force=True)"
        if kind == "compose":
            if method == "down" and _is_true(keywords.get("volumes")):
                return "compose-down-volumes", f"{name}.down(volumes=True)"
            return ("kill", f"{name}.kill()") if method == "kill" else None
        if method == "prune" and (self.imports or name.rsplit(".", 1)[-1] != name):
            collection = _COLLECTIONS.get(name.rsplit(".", 1)[-1])
            return ("prune-without-asking", f"{name}.prune()") if collection else None
        if kind not in ("container", "client", "pod"):
            return None
        if method == "kill":
            at = 1 if kind == "client" or name.rsplit(".", 1)[-1] in _COLLECTIONS else 0
            signal = keywords.get("signal", node.args[at] if len(node.args) > at else None)
            if signal is None or is_sigkill(_constant(signal)):
                return "kill", f"{name}.kill({'' if signal is None else _constant(signal)})"
        if method in ("stop", "restart"):
            at = 1 if kind == "client" or name.rsplit(".", 1)[-1] in _COLLECTIONS else 0
            position = node.args[at] if len(node.args) > at else None
            time = next((keywords[one] for one in ("timeout", "time", "t") if one in keywords), position)
            if time is not None and is_no_time(_constant(time)):
                return "stop-without-grace", f"{name}.{method}(timeout=0)"
        return None

    def _resolved(self, value: ast.expr) -> ast.expr:
        """Return what a parameter is unless somebody says otherwise: `def remove(name, force=True)`."""
        if not isinstance(value, ast.Name):
            return value
        around = [one for one in self._defaults if one.first <= value.lineno <= one.last and value.id in one.given]
        innermost = max(around, key=lambda one: one.first, default=None)
        return value if innermost is None else innermost.given[value.id] or value

    def _kind(self, name: str) -> str | None:
        if name in self._kinds:
            return self._kinds[name]
        if _MADE.search(name) or _NAMED.search(name):
            # A class or list called so, in a file that has nothing to do with engines, is still most likely one of ours;
            # `self.children` or `proc` is not.
            return "container"
        last = name.rsplit(".", 1)[-1].removesuffix("()")
        if last == "compose" and self.imports:
            return "compose"
        if last in _COLLECTIONS and ("." in name or self.imports):
            return _COLLECTIONS[last]
        if re.search(r"\.(?:volumes|images|networks)\.(?:get|create|list|pull)\(\)(?:\[\])*$", name):
            return _COLLECTIONS[name.rsplit(".", 2)[-2]]
        if self.imports and re.search(
            r"(?:^|[._])(?:docker|podman)(?:_?client)?$|(?:^|\.)(?:api|client|low_level)$|docker\.from_env\(\)$|APIClient\(\)$", name
        ):
            return "client"
        return None

    def _learn(self, node: ast.AST) -> None:
        match node:
            case ast.Assign(targets=[target], value=value) | ast.AnnAssign(target=target, value=ast.expr() as value):
                self._remember(target, value)
            case (
                ast.For(target=target, iter=value) | ast.AsyncFor(target=target, iter=value) | ast.comprehension(target=target, iter=value)
            ):
                self._remember(target, value)
            case ast.Call(func=ast.Attribute(value=kept, attr="append" | "add"), args=[value]):
                self._remember(ast.Subscript(kept, ast.Constant(0), ast.Store()), value)
            case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
                self._remember(target, value)
            case ast.NamedExpr(target=target, value=value):
                self._remember(target, value)
            case ast.arg(arg=arg, annotation=ast.expr() as annotation):
                last = re.split(r"[.\s|\"']+", ast.unparse(annotation).strip("\"'"))
                if "Container" in last or "DockerContainer" in last:
                    self._kinds[arg] = "container"
                elif any(one in ("DockerClient", "APIClient", "PodmanClient") for one in last):
                    self._kinds[arg] = "client"
            case _:
                pass

    def _remember(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and target.elts and dotted(value).removesuffix(".items()") != dotted(value):
            target = target.elts[-1]  # for name, box in self.boxes.items()
        if not isinstance(target, ast.Name | ast.Attribute | ast.Subscript):
            return
        if isinstance(value, ast.Call) and dotted(value.func) in ("list", "tuple", "sorted", "reversed") and value.args:
            value = value.args[0]
        name, source = dotted(target), dotted(value)
        # What is taken out of a list or a table of containers is one of them.
        taken = re.sub(r"\.(?:items|values|pop|get|copy)\(\)$", "", source) + "[]"
        if self._kinds.get(taken) == "container" and source not in self._kinds:
            source = taken
        if re.search(r"Popen\(\)$|Process\(\)$|create_subprocess_\w+\(\)$|Thread\(\)$", source):
            self._kinds[name] = "process"
        elif _MADE.search(source):
            self._kinds[name] = "container"
        elif made := re.search(r"\.(volumes|images|networks)\.(?:get|create|list|pull)\(\)(?:\[\])*$", source):
            self._kinds[name] = _COLLECTIONS[made[1]]
        elif self.imports and re.search(r"(?:^|\.)(?:from_env|DockerClient|APIClient|PodmanClient|Docker)\(\)(?:\.api)?$", source):
            self._kinds[name] = "client"
        elif source in self._kinds and self._kinds[source] in ("container", "volume", "image", "network"):
            self._kinds.setdefault(name, self._kinds[source])


@dataclass(frozen=True, slots=True)
class _Function:
    """Lines of a function, and its parameters with their defaults, of which not all have one."""

    first: int
    last: int
    given: dict[str, ast.expr | None]


def _defaults(tree: ast.Module) -> list[_Function]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            plain = [*node.args.posonlyargs, *node.args.args]
            defaults = [*[None] * (len(plain) - len(node.args.defaults)), *node.args.defaults, *node.args.kw_defaults]
            names = [one.arg for one in (*plain, *node.args.kwonlyargs)]
            found.append(_Function(node.lineno, node.end_lineno or node.lineno, dict(zip(names, defaults, strict=True))))
    return found


def _imports(tree: ast.Module) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {one.name.split(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return frozenset(found & _LIBRARIES)


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and bool(node.value)


def _constant(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    # signal.SIGKILL
    return node.attr if isinstance(node, ast.Attribute) else "?"
