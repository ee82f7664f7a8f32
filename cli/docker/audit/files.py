"""Which files of a folder are read, and as what: by name, ending or first line. Binary, huge and ignored files are not."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, Literal

Kind = Literal[
    "shell", "python", "yaml", "dockerfile", "makefile", "justfile", "unit", "batch", "powershell",
    "javascript", "go", "groovy", "jvm", "rust", "ruby", "php", "perl", "lua", "elixir", "dart", "c",
    "ini", "toml", "hcl", "procfile", "crontab",
]  # fmt: skip

MAX_BYTES: Final = 1 << 20
_GIT_TIMEOUT_S: Final = 60
_OTHERS_FOLDERS: Final = frozenset([
        ".git", ".hg", ".svn", "node_modules", "bower_components", ".venv", "venv", ".tox", ".nox", "__pycache__", ".mypy_cache",
        ".ruff_cache", ".pytest_cache", "site-packages",
    ])  # fmt: skip
_BY_ENDING: Final[dict[str, Kind]] = {
    **dict.fromkeys((".sh", ".bash", ".zsh", ".ksh", ".dash", ".bats", ".command", ".fish", ".envrc"), "shell"),
    **dict.fromkeys((".py", ".pyw"), "python"),
    **dict.fromkeys((".yml", ".yaml"), "yaml"),
    **dict.fromkeys((".dockerfile", ".containerfile"), "dockerfile"),
    **dict.fromkeys((".mk", ".mak", ".make"), "makefile"),
    **dict.fromkeys((".service", ".timer", ".socket", ".container", ".pod", ".kube"), "unit"),
    **dict.fromkeys((".bat", ".cmd"), "batch"),
    **dict.fromkeys((".ps1", ".psm1"), "powershell"),
    **dict.fromkeys((".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx", ".vue", ".svelte"), "javascript"),
    ".go": "go",
    **dict.fromkeys((".groovy", ".gradle", ".jenkinsfile"), "groovy"),
    **dict.fromkeys((".java", ".kt", ".kts", ".scala", ".cs"), "jvm"),
    ".rs": "rust",
    **dict.fromkeys((".rb", ".rake", ".gemspec"), "ruby"),
    ".php": "php",
    ".just": "justfile",
    **dict.fromkeys((".pl", ".pm"), "perl"),
    ".lua": "lua",
    **dict.fromkeys((".ex", ".exs"), "elixir"),
    ".dart": "dart",
    **dict.fromkeys((".c", ".cc", ".cpp", ".cxx", ".h", ".hpp"), "c"),
    **dict.fromkeys((".ini", ".cfg"), "ini"),
    ".toml": "toml",
    **dict.fromkeys((".tf", ".tofu", ".hcl", ".nomad"), "hcl"),
    **dict.fromkeys((".cron", ".crontab"), "crontab"),
}
_BY_NAME: Final[tuple[tuple[str, Kind], ...]] = (
    ("dockerfile*", "dockerfile"),
    ("containerfile*", "dockerfile"),
    ("makefile*", "makefile"),
    ("gnumakefile", "makefile"),
    ("justfile", "justfile"),
    (".justfile", "justfile"),
    ("jenkinsfile*", "groovy"),
    ("rakefile", "ruby"),
    ("vagrantfile", "ruby"),
    ("sconstruct", "python"),
    ("package.json", "yaml"),
    ("composer.json", "yaml"),
    ("devcontainer.json", "yaml"),
    (".devcontainer.json", "yaml"),
    ("procfile*", "procfile"),
    ("crontab", "crontab"),
    ("supervisord.conf", "ini"),
    (".bashrc", "shell"),
    (".bash_aliases", "shell"),
    (".bash_profile", "shell"),
    (".profile", "shell"),
    (".zshrc", "shell"),
)
_TEMPLATE_ENDINGS: Final = frozenset(
    {".j2", ".jinja", ".jinja2", ".tmpl", ".tpl", ".template", ".erb", ".in", ".dist", ".example", ".sample"}
)
_BY_PROGRAM: Final[tuple[tuple[str, Kind], ...]] = (
    (r"\b(?:ba|da|z|k|a|fi)?sh\b", "shell"),
    (r"\bbats\b", "shell"),
    (r"\bpython[\d.]*\b", "python"),
    (r"\b(?:node|deno|bun|zx|tsx)\b", "javascript"),
    (r"\bruby\b", "ruby"),
    (r"\bphp\b", "php"),
    (r"\bpwsh\b", "powershell"),
    (r"\bperl\b", "perl"),
    (r"\blua\b", "lua"),
    (r"\bmake\b", "makefile"),
    (r"\bjust\b", "justfile"),
)


def kind_of(path: Path, first_line: str = "") -> Kind | None:
    """Return what a file is read as; None: as nothing (documents, data, other languages).

    >>> kind_of(Path("deploy/clean.sh.j2")), kind_of(Path("bin/clean"), "#!/usr/bin/env bash"), kind_of(Path("README.md"))
    ('shell', 'shell', None)
    """
    name = path.name.lower()
    if name.endswith((".min.js", ".d.ts")):
        return None
    while Path(name).suffix in _TEMPLATE_ENDINGS:
        name = name.removesuffix(Path(name).suffix)
    for pattern, kind in _BY_NAME:
        if fnmatch(name, pattern) and not name.endswith(
            (".md", ".rst", ".txt", ".py", ".sh", ".dockerignore", ".gz", ".bz2", ".xz", ".zst", ".zip")
        ):
            return kind
    if (found := _BY_ENDING.get(Path(name).suffix)) is not None:
        return found
    if name in (".envrc",):
        return "shell"
    if path.parent.name == "cron.d":
        return "crontab"
    if first_line.startswith("#!") and not Path(name).suffix:
        return next((kind for pattern, kind in _BY_PROGRAM if re.search(pattern, first_line)), None)
    return None


def files_of(root: Path, excluded: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the files below `root` in order, or `root` itself: what git tracks or would track, else all but other people's code.

    `excluded`: patterns such as `tests/*`, compared with the path below `root`; `*` also stands for slashes.
    """
    if root.is_file():
        yield root
        return
    listed = _tracked(root)
    for path in sorted(_walked(root) if listed is None else listed):
        below = path.relative_to(root)
        if _OTHERS_FOLDERS & set(below.parts[:-1]) or any(fnmatch(below.as_posix(), pattern) for pattern in excluded):
            continue
        # A link leads to a file that is read by its own name, or out of the folder.
        if path.is_file() and not path.is_symlink():
            yield path


def _tracked(root: Path) -> list[Path] | None:
    """Return what git would know of; None where there is no git or `root` is in none of its checkouts."""
    # The checkout may be anybody's: its settings must not start a program of theirs.
    command = ["git", "-c", "core.fsmonitor=false", "-c", "safe.directory=*", "-C", str(root)]
    try:
        done = subprocess.run(
            [*command, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    return [root / os.fsdecode(name) for name in set(done.stdout.split(b"\0")) if name]


def _walked(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _OTHERS_FOLDERS]
        for name in names:
            yield Path(folder) / name


def text_of(path: Path) -> str | None:
    """Return a file's text, whatever its encoding; None for a binary or huge one.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        return None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    if b"\0" in content:
        return None
    return content.decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
