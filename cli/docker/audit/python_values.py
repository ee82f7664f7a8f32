"""What the expressions of a Python file come to, as far as that can be known without running it: texts and lists of words."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from isolation_monitor.cli.docker.audit.unknown import HOLE, value_of_unknown

_MAX_DEPTH: Final = 12


@dataclass(frozen=True, slots=True)
class Text:
    """A string with holes where it is not known."""

    text: str
    node: ast.expr

    def line_of(self, offset_lines: int) -> int:
        """Return the file's line of a line inside the text; one written over several lines keeps them apart."""
        spans = (self.node.end_lineno or self.node.lineno) - self.node.lineno
        return self.node.lineno + (offset_lines if spans >= self.text.count("\n") > 0 else 0)


@dataclass(frozen=True, slots=True)
class Words:
    """A list of words, each with its line."""

    words: tuple[str, ...]
    lines: tuple[int, ...]
    node: ast.expr


Value = Text | Words | None


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for names and attributes, with `()` and `[]` where something is called or taken out; `?` for the rest."""
    match node:
        case ast.Name(id):
            return id
        case ast.Attribute(value, attr):
            return f"{dotted(value)}.{attr}"
        case ast.Call(func):
            return f"{dotted(func)}()"
        case ast.Subscript(value):
            return f"{dotted(value)}[]"
        case ast.Await(value):
            return dotted(value)
        case _:
            return "?"


class Values:
    """The values of one file. Names are looked up in the function they stand in, then in the module."""

    def __init__(self, tree: ast.Module) -> None:
        self._assigned: dict[str, list[ast.expr]] = {}
        self._functions: list[tuple[int, int]] = []
        grown: list[tuple[str, ast.expr]] = []
        loops: list[tuple[str, ast.expr]] = []
        for node in ast.walk(tree):
            match node:
                case ast.Assign(targets=[target], value=value) | ast.AnnAssign(target=target, value=ast.expr() as value):
                    if isinstance(target, ast.Name | ast.Attribute):
                        self._assigned.setdefault(_last(target), []).append(value)
                case ast.For(target=ast.Name(id), iter=each) | ast.AsyncFor(target=ast.Name(id), iter=each):
                    loops.append((id, each))
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    self._functions.append((node.lineno, node.end_lineno or node.lineno))
                case ast.AugAssign(target=ast.Name(id), op=ast.Add(), value=value):
                    grown.append((id, value))
                case ast.Call(func=ast.Attribute(ast.Name(id), "append"), args=[value]):
                    grown.append((id, ast.copy_location(ast.List([value], ast.Load()), value)))
                case ast.Call(func=ast.Attribute(ast.Name(id), "extend"), args=[value]):
                    grown.append((id, value))
                case _:
                    pass
        for name, value in sorted(grown, key=lambda one: one[1].lineno):
            self._grow(name, value)
        for name, each in loops:
            for one in self._assigned.get(_last(each), []) if isinstance(each, ast.Name | ast.Attribute) else [each]:
                if isinstance(one, ast.List | ast.Tuple):
                    self._assigned.setdefault(name, []).extend(one.elts)

    def _grow(self, name: str, value: ast.expr) -> None:
        """Remember that something was put behind what a name holds: behind its last value above, in the same function."""
        scope = self._scope(value.lineno)
        above = [one for one in self._assigned.get(name, []) if one.lineno <= value.lineno and self._scope(one.lineno) == scope]
        if above:
            last = max(above, key=lambda one: one.lineno)
            self._assigned[name].append(ast.copy_location(ast.BinOp(last, ast.Add(), value), value))

    def _scope(self, line: int) -> int:
        """Return where the innermost function around a line begins; 0 for the module."""
        return max((first for first, last in self._functions if first <= line <= last), default=0)

    def all_of(self, node: ast.expr) -> Iterator[Value]:
        """Yield every value that an expression may have; a name that is assigned more than once has several."""
        match node:
            case ast.Name() | ast.Attribute():
                for value in self._assigned.get(_last(node), []):
                    yield self.of(value)
            case ast.IfExp(body=body, orelse=orelse):
                yield from self.all_of(body)
                yield from self.all_of(orelse)
            case ast.Subscript(value=ast.Name() | ast.Attribute() as table):
                for one in self._assigned.get(_last(table), []):
                    if isinstance(one, ast.Dict):
                        for value in one.values:
                            yield self.of(value)
            case ast.Call(func=ast.Attribute(ast.Name() | ast.Attribute() | ast.Subscript() as template, "format")):
                for known in self.all_of(template):
                    if isinstance(known, Text):
                        yield Text(_braces(known.text), known.node)
            case _:
                yield self.of(node)

    def of(self, node: ast.expr, depth: int = 0) -> Value:
        """Return the value of an expression; None where it is neither a text nor a list."""
        if depth > _MAX_DEPTH:
            return None
        match node:
            case ast.Constant(value=str(text)):
                return Text(text, node)
            case ast.JoinedStr(values):
                return Text("".join(self._part(part, depth) for part in values), node)
            case ast.BinOp(left, ast.Add(), right):
                return self._sum(node, left, right, depth)
            case ast.BinOp(ast.Constant(value=str(text)), ast.Mod(), _):
                return Text(_percent(text), node)
            case ast.Call(func=ast.Attribute(ast.Constant(value=str(text)), "format")):
                return Text(_braces(text), node)
            case ast.Call(func=ast.Attribute(ast.Constant(value=str(separator)), "join"), args=[items]):
                listed = self.of(items, depth + 1)
                return Text(separator.join(listed.words), node) if isinstance(listed, Words) else None
            case ast.Call(func=func, args=[text]) if dotted(func) in ("shlex.split", "split"):
                value = self.of(text, depth + 1)
                return self._split(value, node) if isinstance(value, Text) else None
            case ast.Call(func=ast.Attribute(value=text, attr="split"), args=[]):
                value = self.of(text, depth + 1)
                return self._split(value, node) if isinstance(value, Text) else None
            case ast.Call(func=ast.Attribute(value=text, attr="strip" | "dedent" | "encode")):
                return self.of(text, depth + 1)
            case ast.Call(func=func, args=[text, *_]) if dotted(func) in ("textwrap.dedent", "dedent", "str", "list", "tuple"):
                return self.of(text, depth + 1)
            case ast.List(elts) | ast.Tuple(elts):
                return self.listed(node, elts, depth)
            case ast.IfExp(body=body, orelse=orelse):
                return self.of(body, depth + 1) or self.of(orelse, depth + 1)
            case ast.Name() | ast.Attribute():
                known = self._assigned.get(_last(node), [])
                return self.of(known[-1], depth + 1) if known else None
            case _:
                return None

    def _part(self, part: ast.expr, depth: int) -> str:
        if isinstance(part, ast.FormattedValue):
            return self._word(part.value, depth)
        return str(part.value) if isinstance(part, ast.Constant) else HOLE

    def _word(self, node: ast.expr, depth: int) -> str:
        """Return an expression as one word or part of a text."""
        value = self.of(node, depth + 1)
        if isinstance(value, Text):
            return value.text
        if isinstance(value, Words):
            return " ".join(value.words)
        match node:
            case ast.Constant(value=bool() | int() | float() as number):
                return str(number)
            case ast.Name() | ast.Attribute():
                return value_of_unknown(_last(node))
            case ast.Call(func=func, args=[first, *_]) if dotted(func) == "str":
                return self._word(first, depth + 1)
            case ast.Call(func=func, args=[ast.Constant(value=str(name))]) if dotted(func) == "shutil.which":
                return name
            case _:
                return HOLE

    def _sum(self, node: ast.expr, left: ast.expr, right: ast.expr, depth: int) -> Value:
        one, other = self.of(left, depth + 1), self.of(right, depth + 1)
        if isinstance(one, Words) or isinstance(other, Words):
            parts = [self._as_words(value, side) for value, side in ((one, left), (other, right))]
            return Words(parts[0].words + parts[1].words, parts[0].lines + parts[1].lines, node)
        if isinstance(one, Text) or isinstance(other, Text):
            return Text(self._word(left, depth) + self._word(right, depth), node)
        return None

    @staticmethod
    def _as_words(value: Value, node: ast.expr) -> Words:
        return value if isinstance(value, Words) else Words((HOLE,), (node.lineno,), node)

    def assigned_to(self, name: str) -> list[ast.expr]:
        """Return what a name is set to anywhere in the file."""
        return self._assigned.get(name, [])

    def listed(self, node: ast.expr, items: list[ast.expr], depth: int = 0) -> Words:
        """Return expressions as words; `node` is where they stand together."""
        words: list[str] = []
        lines: list[int] = []
        for item in items:
            if isinstance(item, ast.Starred):
                value = self.of(item.value, depth + 1)
                known = value if isinstance(value, Words) else Words((self._word(item.value, depth),), (item.lineno,), item)
                words += known.words
                lines += [item.lineno] * len(known.words)
            elif isinstance(item, ast.IfExp):
                # Either may be: judged with what is there in one of the two.
                words.append(self._word(item.body, depth) or self._word(item.orelse, depth))
                lines.append(item.lineno)
            else:
                value = self.of(item, depth + 1)
                words.append(self._word(item, depth))
                # A script of several lines is found where it is written, not where it is run.
                lines.append(value.node.lineno if isinstance(value, Text) and "\n" in value.text else item.lineno)
        return Words(tuple(words), tuple(lines), node)

    @staticmethod
    def _split(value: Text, node: ast.expr) -> Words | None:
        try:
            words = shlex.split(value.text)
        except ValueError:
            return None
        return Words(tuple(words), (node.lineno,) * len(words), node)


def _last(node: ast.Name | ast.Attribute) -> str:
    """Return the name by which an assignment is found again; `self.x` and `x` are two."""
    return node.id if isinstance(node, ast.Name) else f".{node.attr}"


def _percent(text: str) -> str:
    return re.sub(r"%(?:\(\w+\))?[-#0 +]*\d*(?:\.\d+)?[sdrif]", HOLE, text)


def _braces(text: str) -> str:
    return re.sub(r"\{[^{}]*\}", HOLE, text)
