"""Whose a file of code is: the application's, an installed package's, the interpreter's or the monitor's own."""

from __future__ import annotations

import os
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

Owner = Literal["application", "installed", "interpreter", "monitor", "nobody"]
"""`nobody` is code that is in no file: of `exec`, of a generated class, of an interactive session."""

_PATHS: Final = {name: os.path.realpath(path) + os.sep for name, path in sysconfig.get_paths().items()}
_INTERPRETER: Final = tuple(_PATHS[name] for name in ("stdlib", "platstdlib") if name in _PATHS)
_INSTALLED: Final = tuple(_PATHS[name] for name in ("purelib", "platlib") if name in _PATHS)
_PACKAGE_FOLDERS: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_MONITOR: Final = str(Path(__file__).resolve().parent) + os.sep


@lru_cache(4_096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def owner_of(file: str) -> Owner:
    """Return whose the file is in which code says that it is.

    Links are followed for the folder alone: some installers make each file a link to one copy for all environments, and it is
    installed all the same.
    """
    if file.startswith("<"):
        return "nobody"
    folder, name = os.path.split(file)
    path = f"{_real_folder(folder)}{os.sep}{name}"
    if path.startswith(_MONITOR):
        return "monitor"
    # Virtual environments keep their packages below the standard library's folder: asked before that.
    if any(folder in path for folder in _PACKAGE_FOLDERS) or path.startswith(_INSTALLED):
        return "installed"
    return "interpreter" if path.startswith(_INTERPRETER) else "application"
