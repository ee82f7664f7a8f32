"""XML as build tools write it, made into XML: the encoding that it has, and nothing that XML forbids."""

from __future__ import annotations

import re
from typing import Final

_FORBIDDEN: Final = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]|&#(?:x0*(?:[0-8bcef]|1[0-9a-f])|0*(?:[0-8]|1[124-9]|2\d|3[01]));", re.IGNORECASE
)
_DECLARED: Final = re.compile(rb"<\?xml[^>]{0,200}?encoding=[\"']([\w.:-]{1,40})[\"']")


def mended(content: bytes) -> bytes:
    """Return the file as UTF-8 without what XML forbids.

    Raises:
        LookupError: it names an encoding that Python does not know.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", "replace")
    else:
        found = _DECLARED.search(content[:500])
        declared = found[1].decode("ascii") if found else "utf-8"
        text = _decoded(content.removeprefix(b"\xef\xbb\xbf"), declared)
    text = re.sub(r"(<\?xml[^>]{0,200}?)encoding=[\"'][^\"']*[\"']", r'\1encoding="utf-8"', text, count=1)
    return _FORBIDDEN.sub("\ufffd", text.lstrip()).encode("utf-8", "replace")


def _decoded(content: bytes, declared: str) -> str:
    try:
        return content.decode(declared)
    except UnicodeDecodeError:
        # What says that it is UTF-8 and is not comes from Windows, nearly always.
        return content.decode(
            "cp1252" if declared.lower().replace("_", "-") in ("utf-8", "utf8", "us-ascii", "ascii") else declared, "replace"
        )
