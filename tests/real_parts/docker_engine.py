"""A private Docker engine: its own socket, data root and containerd, one image without a download, gone with its `with` block.

It needs root and nothing of the machine's own Docker: no bridge, no firewall rule, no shared folder. Containers run with
`--network none`; their image is a static BusyBox, imported. Memory limits and out-of-memory kills work as in production.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import pytest

from isolation_monitor.demo.binaries import BUSYBOX, DOCKERD, Found
from tests.real_parts.installed import installed
from tests.real_parts.processes import eventually

IMAGE = "isomon-test/busybox:1"
"""The only image of the engine: `/bin/busybox` and `/bin/sh`."""

_APPLETS = (
    "sh",
    "sleep",
    "true",
    "false",
    "kill",
    "cat",
    "echo",
    "dd",
    "head",
    "tail",
    "date",
    "wget",
    "nc",
    "httpd",
    "touch",
    "rm",
    "test",
)


Entry = str | bytes | int
"""What an image holds at a path: a link to somewhere, a program's text, or a folder of a user."""


class DockerEngine:
    """One running engine that can be stopped, killed and started again on the same data.

    `hosts` are listened on beside the Unix socket, as `tcp://127.0.0.1:PORT`; `flags` are more of dockerd's, as for TLS; `config` is
    merged into its daemon.json. `within` is a command that runs others, as `nsenter` does in another network.
    """

    def __init__(
        self,
        folder: Path,
        dockerd: Found,
        hosts: Sequence[str] = (),
        flags: Sequence[str] = (),
        config: dict[str, Any] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self.url = f"unix://{self.socket}"
        self.hosts = tuple(hosts)
        self.flags = tuple(flags)
        self._within = tuple(within)
        self._dockerd = dockerd
        self._cgroup = folder.name
        # Engines before 24 keep a key there, whatever their data root.
        self._key = Path("/etc/docker/key.json")
        self._leaves_key = not self._key.exists()
        self._daemon: subprocess.Popen[bytes] | None = None
        self._containerd: subprocess.Popen[bytes] | None = None
        # A machine's own /etc/docker/daemon.json must not choose how this engine runs.
        (folder / "daemon.json").write_text(json.dumps({"live-restore": False, "shutdown-timeout": 3} | (config or {})))
        (folder / "containerd.toml").write_text(
            f'version = 2\nroot = "{folder}/cd/root"\nstate = "{folder}/cd/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\n  address = "{folder}/cd.sock"\n'
        )

    @property
    def is_running(self) -> bool:
        return self._daemon is not None and self._daemon.poll() is None

    def start(self) -> None:
        """Start the engine, and its containerd where it does not run, and return when it answers."""
        if self._containerd is None or self._containerd.poll() is not None:
            self._containerd = self._run("containerd", "--config", str(self.folder / "containerd.toml"))
            eventually(lambda: self._answers(self._containerd, self.folder / "cd.sock"), "containerd takes connections")
        command = [
            str(self._dockerd.path), "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs",
            f"--config-file={self.folder}/daemon.json", f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec",
            f"--pidfile={self.folder}/dockerd.pid", f"--containerd={self.folder}/cd.sock", f"--cgroup-parent={self._cgroup}",
            f"--host={self.url}", *(f"--host={host}" for host in self.hosts), *self.flags,
        ]  # fmt: skip
        # Left by a killed engine: the next one takes the number for a running process, if there is one of that number.
        (self.folder / "dockerd.pid").unlink(missing_ok=True)
        self._daemon = self._run(*command)
        eventually(lambda: self._answers(self._daemon, self.socket) and self._pings(), "the Docker engine answers")

    def stop(self) -> None:
        """Stop the engine as the machine's service manager would. Its containers stop, too, unless it has `live-restore`."""
        if self._daemon is not None and self._daemon.poll() is None:
            self._daemon.terminate()
            try:
                self._daemon.wait(60)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()

    def kill(self) -> None:
        """Kill the engine alone; its containers go on until the next one finds them."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()

    def restart(self) -> None:
        """Stop and start the engine."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the engine, every container and every process of it, and take its control groups and folder away."""
        with contextlib.suppress(OSError, AssertionError):
            if self.is_running:
                for container in self.ask("GET", "/containers/json?all=1"):
                    self.ask("DELETE", f"/containers/{container['Id']}?force=1")
        self.stop()
        for pid in self._shims():
            for process in [*_descendants(pid), pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        if self._containerd is not None and self._containerd.poll() is None:
            self._containerd.terminate()
            try:
                self._containerd.wait(20)
            except subprocess.TimeoutExpired:
                self._containerd.kill()
                self._containerd.wait()
        self._unmount()
        for group in Path("/sys/fs/cgroup").glob(f"**/{self._cgroup}"):
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
        if self._leaves_key:
            self._key.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    # What tests do with it. Plain HTTP on the socket, so that no client library of the product stands between.

    def ask(self, method: str, path: str, body: object = None, *, raw: bytes | None = None, within_s: float = 60.0) -> Any:
        """Return the engine's answer as JSON, or as text where it is none.

        Raises:
            AssertionError: the engine refused, with what it said.
        """
        connection = _UnixConnection(self.socket, within_s)
        try:
            content = raw if raw is not None else (b"" if body is None else json.dumps(body).encode())
            kind = "application/x-tar" if raw is not None else "application/json"
            connection.request(method, path, content, {"Content-Type": kind})
            answer: HTTPResponse = connection.getresponse()
            text = answer.read().decode(errors="replace")
        finally:
            connection.close()
        assert answer.status < 400, f"{method} {path} answers {answer.status}: {text}"
        try:
            return json.loads(text) if text else None
        except ValueError:
            return text

    def create(self, name: str, *command: str, labels: dict[str, str] | None = None, **host: Any) -> str:
        """Create a container of the image that runs `command`, without a network, and return its id.

        `host` is more of the API's HostConfig, as `Memory=16 << 20` or `AutoRemove=True`; `Healthcheck` and `StopSignal`
        go to the container itself.
        """
        config: dict[str, Any] = {"Image": IMAGE, "Cmd": list(command), "Labels": labels or {}}
        for key in ("Healthcheck", "StopSignal", "StopTimeout", "Env"):
            if key in host:
                config[key] = host.pop(key)
        config["HostConfig"] = {"NetworkMode": "none", **host}
        return str(self.ask("POST", f"/containers/create?{urlencode({'name': name})}", config)["Id"])

    def run(self, name: str, *command: str, labels: dict[str, str] | None = None, **host: Any) -> str:
        """Create and start a container; see `create`."""
        identity = self.create(name, *command, labels=labels, **host)
        self.ask("POST", f"/containers/{identity}/start")
        return identity

    def put(self, container: str, folder: str, name: str) -> None:
        """Make an empty file in a folder of a container."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(name))
        self.ask("PUT", f"/containers/{container}/archive?{urlencode({'path': folder})}", raw=packed.getvalue())

    def state(self, container: str) -> dict[str, Any]:
        """Return the container's `State` as the engine tells it."""
        return dict(self.ask("GET", f"/containers/{container}/json")["State"])

    def exited(self, container: str, within_s: float = 60.0) -> int:
        """Wait until the container has ended and return its exit code."""
        eventually(lambda: self.state(container)["Status"] in ("exited", "dead"), f"{container} ends", within_s)
        return int(self.state(container)["ExitCode"])

    def import_image(self) -> None:
        """Make the image out of the machine's static BusyBox."""
        self.import_tree(IMAGE, {}, "ENV PATH=/bin")

    def import_tree(self, image: str, entries: dict[str, Entry], *changes: str) -> None:
        """Make an image `name:tag` of BusyBox and `entries`, by their paths; `changes` are lines of a Dockerfile, as `USER 10001`."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            # Folders that nobody names would be open to root alone.
            above = {str(parent) for path in entries for parent in PurePosixPath(path).parents} - {"."} - set(entries)
            for folder in sorted(above | {"bin", "tmp", "dev", "proc", "sys", "etc"}):
                # What is mounted over it has its mode.
                archive.addfile(_folder(folder, mode=0o1777 if folder == "tmp" else 0o755))
            archive.add(installed(BUSYBOX).path, "bin/busybox")
            for applet in _APPLETS:
                archive.addfile(_link(f"bin/{applet}", "busybox"))
            for path, entry in entries.items():
                if isinstance(entry, str):
                    archive.addfile(_link(path, entry))
                elif isinstance(entry, bytes):
                    file = tarfile.TarInfo(path)
                    file.size, file.mode = len(entry), 0o755
                    archive.addfile(file, io.BytesIO(entry))
                else:
                    archive.addfile(_folder(path, entry))
        repository, tag = image.split(":")
        where = [("fromSrc", "-"), ("repo", repository), ("tag", tag), *(("changes", change) for change in changes)]
        self.ask("POST", f"/images/create?{urlencode(where)}", raw=packed.getvalue())

    # Helpers.

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        # Below pytest's signal group an interrupt would stop the engine before the tests have cleaned up.
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen([*self._within, *command], stdout=log, stderr=log, cwd=self.folder, start_new_session=True)

    def _answers(self, process: subprocess.Popen[bytes] | None, path: Path) -> bool:
        if process is None or process.poll() is not None:
            raise AssertionError(f"the engine ended: {(self.folder / 'log').read_text()[-3000:]}")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(2)
            return probe.connect_ex(str(path)) == 0

    def _pings(self) -> bool:
        with contextlib.suppress(OSError, AssertionError):
            return bool(self.ask("GET", "/_ping", within_s=5) == "OK")
        return False

    def _shims(self) -> list[int]:
        """Return the processes that hold a container of this engine; they outlive the engine and containerd."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if b"containerd-shim" in words[0] and str(self.folder / "cd.sock").encode() in words:
                    found.append(int(path.parent.name))
        return found

    def _unmount(self) -> None:
        points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for point in sorted((point for point in points if point.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "-l", point], check=False, capture_output=True, timeout=30)

    def __enter__(self) -> DockerEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@contextlib.contextmanager
def docker_engine(
    *, hosts: Sequence[str] = (), flags: Sequence[str] = (), within: Sequence[str] = (), **config: Any
) -> Iterator[DockerEngine]:
    """Run a new engine with the one image until the block ends; `config` goes into its daemon.json (`-` written as `_`).

    Skips the test where Docker is missing or this is not root (fails if ISOMON_REQUIRE_REAL=1).
    """
    dockerd = installed(DOCKERD)
    installed(BUSYBOX)
    if os.geteuid() != 0:
        reason = "a Docker engine of its own needs root: run the tests as root, or without these"
        if os.environ.get("ISOMON_REQUIRE_REAL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    # Not below pytest's own folder: a socket's path has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="isomon-docker-"))
    with DockerEngine(folder, dockerd, hosts, flags, {key.replace("_", "-"): value for key, value in config.items()}, within) as engine:
        engine.start()
        engine.import_image()
        yield engine


def _folder(path: str, user: int = 0, mode: int = 0o755) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, user, user
    return entry


def _link(path: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


class _UnixConnection(HTTPConnection):
    """HTTP to a Unix socket."""

    def __init__(self, path: Path, within_s: float) -> None:
        super().__init__("docker", timeout=within_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = path.read_text()
            parents.setdefault(int(text[text.rindex(")") + 2 :].split()[1]), []).append(int(path.parent.name))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found
