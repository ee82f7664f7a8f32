"""Where Docker engines listen, as settings say it: `unix:///var/run/docker.sock`, `tcp://HOST:2376` with certificates, or several by name.

Whoever can write to an engine is root on its machine. So TCP wants TLS with a client's certificate, as Docker's own command has it
(`ca.pem`, `cert.pem`, `key.pem` in one folder); `http://` says that a plain connection is meant, as to a proxy that only lets reading pass.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

OWNER_LABELS: Final = (
    *("isolation.owner", "com.docker.compose.project", "com.docker.swarm.service.name"),
    *("com.docker.stack.namespace", "io.kubernetes.pod.name"),
)
"""Labels by which tools and people say whose a container is."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CERTIFICATES: Final = ("ca.pem", "cert.pem", "key.pem")


class DockerAddressError(ValueError):
    """The text names no engine that could be followed; it says why and what to write."""


@dataclass(frozen=True, slots=True)
class DockerAddress:
    """One engine. `certificates` is the folder of its TLS files, None for a socket or a plain connection."""

    name: str
    url: str
    certificates: Path | None = None

    def tls(self) -> ssl.SSLContext | None:
        """Return how the engine proves itself and we do; read anew, so that renewed certificates count at the next connection."""
        if self.certificates is None:
            return None
        authority, certificate, key = (str(self.certificates / name) for name in _CERTIFICATES)
        context = ssl.create_default_context(cafile=authority)
        context.load_cert_chain(certificate, key)
        return context


def parse_engines(text: str, certificates: Path | None = None) -> tuple[DockerAddress, ...]:
    """Return the engines that `text` names: addresses separated by commas or blanks, each `URL` or `NAME=URL`.

    Without a name the first engine is `docker`, and others have that of their host.

    Raises:
        DockerAddressError: an address that is none, a name twice, TCP without certificates, or certificates that cannot be used.

    >>> [(one.name, one.url) for one in parse_engines("unix:///run/docker.sock, build=http://proxy:2375")]
    [('docker', 'unix:///run/docker.sock'), ('build', 'http://proxy:2375')]
    """
    found: list[DockerAddress] = []
    for part in re.split(r"[\s,]+", text.strip()):
        if not part:
            continue
        name, separator, url = part.partition("=")
        if not separator:
            name, url = "", part
        one = _address(name, url, found, certificates)
        if any(other.name == one.name for other in found):
            raise DockerAddressError(f"two engines are called {one.name!r}: name them, as in build=tcp://10.0.0.5:2376")
        found.append(one)
    return tuple(found)


def _address(name: str, url: str, before: Sequence[DockerAddress], certificates: Path | None) -> DockerAddress:
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise DockerAddressError(f"{url!r} has no usable port: write tcp://HOST:2376") from None
    name = name or ("docker" if not before else (host or "").replace(":", "-"))
    if not _NAME.fullmatch(name):
        raise DockerAddressError(f"{name!r} is no name for an engine: use letters, digits, dots, dashes and underscores, as in build={url}")
    if parts.scheme == "unix":
        if not parts.path.startswith("/") or parts.netloc:
            raise DockerAddressError(f"{url!r} names no socket: write unix:///var/run/docker.sock, with three slashes")
        return DockerAddress(name, url)
    if parts.scheme not in ("tcp", "https", "http") or not host or parts.username or parts.path.strip("/"):
        raise DockerAddressError(f"{url!r} is no engine: write unix:///PATH, tcp://HOST:2376, or http://HOST:2375 for a plain connection")
    bare = f"[{host}]" if ":" in host else host
    if parts.scheme == "http":
        return DockerAddress(name, f"http://{bare}:{port or 2375}")
    if certificates is None:
        raise DockerAddressError(
            f"{url!r} needs TLS: name the folder with {', '.join(_CERTIFICATES)} in COLLECTOR_DOCKER_CERT_DIR; "
            f"where the connection is meant to be plain, write http://{bare}:{port or 2375}"
        )
    address = DockerAddress(name, f"https://{bare}:{port or 2376}", certificates)
    try:
        address.tls()
    except (OSError, ssl.SSLError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DockerAddressError(f"COLLECTOR_DOCKER_CERT_DIR={str(certificates)!r}: {what}; it wants {', '.join(_CERTIFICATES)}") from None
    return address
