"""`python kustomize_build.py LIBRARY FOLDER`: print what kustomize makes of a folder.

LIBRARY is kustomize's own Go code as a shared library, as the wheel of pykustomize has it; that package itself asks for a newer Python.
"""

from __future__ import annotations

import ctypes
import sys


def main() -> int:
    library, folder = sys.argv[1:]
    kustomize = ctypes.CDLL(library)
    kustomize.pykustomize_last_error.restype = ctypes.c_char_p
    built = ctypes.c_char_p()
    if kustomize.pykustomize_build(folder.encode(), b"{}", ctypes.byref(built)):
        print(kustomize.pykustomize_last_error().decode(), file=sys.stderr)
        return 1
    print((built.value or b"").decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
