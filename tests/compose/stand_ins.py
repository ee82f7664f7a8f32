"""Images in the place of those that no registry gives here, and what the compose file must say for them: Debian's programs, this checkout.

A stand-in is BusyBox and links; the programs are those of the machine's Debian packages, mounted read-only. The network is the engine's
own: a namespace in which the ports of the compose file are free, whatever else the machine serves.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from isolation_monitor.demo.binaries import ALERTMANAGER, POSTGRES, PROMETHEUS
from tests.compose.compose import ALL, ROOT, project
from tests.compose.test_dockerfile import stages
from tests.real_parts.docker_engine import DockerEngine, Entry
from tests.real_parts.installed import installed

SERVICES: Final = tuple(name for name in ALL if name != "grafana")
"""Grafana's server is in no package registry."""
_ENTRY: Final = "stand-in/run_with_secrets.py"
_USERS: Final = "root:x:0:0::/:/bin/sh\npostgres:x:999:999::/:/bin/sh\napp:x:10001:10001::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
_POSTGRES: Final = """#!/bin/sh
# What the official image does at its first start, in short: a cluster, its user and database.
set -e
data=/var/lib/postgresql/data
if [ ! -s "$data/PG_VERSION" ]; then
  initdb --pgdata="$data" --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth=scram-sha-256 --encoding=UTF8
  echo "CREATE DATABASE $POSTGRES_DB;" | postgres --single -D "$data" postgres
fi
exec postgres -D "$data" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql -c dynamic_shared_memory_type=posix
"""
_ASK: Final = """
import sys
from urllib.request import Request, urlopen

url, token, body = sys.argv[1:]
headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
print(urlopen(Request(url, body.encode() or None, headers), timeout=20).read().decode())
"""


@contextlib.contextmanager
def own_network() -> Iterator[list[str]]:
    """Give the command that runs others in a network of their own, loopback alone, until the block ends."""
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 3600"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        yield ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()


def import_stand_ins(engine: DockerEngine) -> None:
    """Make every image of the compose file but Grafana's."""
    links: dict[str, Entry] = {"lib": "usr/lib", "lib64": "usr/lib64", "etc/passwd": _USERS.encode(), "usr": 0, "bin/id": "/usr/bin/id"}
    image = {name: str(project()["services"][name]["image"]) for name in SERVICES}
    postgres = installed(POSTGRES).path.resolve().parent
    engine.import_tree(
        image["postgres"],
        links | {"stand-in/postgres": _POSTGRES.encode(), "var/lib/postgresql": 999},
        f"ENV PATH={postgres}:/bin:/usr/bin",
        'ENTRYPOINT ["/bin/sh", "/stand-in/postgres"]',
    )
    for name, part, data in (("prometheus", PROMETHEUS, "prometheus"), ("alertmanager", ALERTMANAGER, "alertmanager")):
        path = f'ENTRYPOINT ["{installed(part).path}"]'
        engine.import_tree(image[name], links | {data: 65534, f"etc/{name}": 0}, "ENV PATH=/bin", path)
    ours = links | {_ENTRY: (ROOT / "deploy" / "run_with_secrets.py").read_bytes(), "opt/isolation/examples": str(ROOT / "examples")}
    for name, stage in (("collector", "collector"), ("chat", "chat")):
        (command,) = [rest for instruction, rest in stages()[stage] if instruction == "CMD"]
        engine.import_tree(
            image[name],
            ours,
            f"ENV PATH={Path(sys.executable).parent}:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1",
            "WORKDIR /tmp",
            f'ENTRYPOINT ["python", "-I", "/{_ENTRY}"]',
            f"CMD {command}",
        )


def laid_out(folder: Path) -> Path:
    """Make a project directory that is this checkout but for its secrets and the services that Prometheus reads; return the override."""
    for name in ("alerts", "dashboards"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    target = [{"targets": ["127.0.0.1:8000"]}]
    (folder / "deploy" / "services" / "chat.yml").write_text(yaml.safe_dump(target))
    make = [sys.executable, str(ROOT / "deploy" / "make-secrets.py"), "--folder", str(folder / "secrets")]
    subprocess.run(make, check=True, capture_output=True, timeout=60)
    override = folder / "override.yml"
    override.write_text(_override())
    return override


def _override() -> str:
    hosts = [f"{name}:127.0.0.1" for name in ALL]
    base = Path(sys.base_prefix)
    seen = [Path("/usr"), ROOT, *([] if base.is_relative_to("/usr") else [base])]
    lines = ["services:", "  grafana:", "    profiles: [never]"]
    for name in SERVICES:
        volumes = [{"type": "bind", "source": str(path), "target": str(path), "read_only": True} for path in seen]
        more: dict[str, Any] = {"network_mode": "host", "extra_hosts": hosts, "volumes": volumes, "pull_policy": "never"}
        if shutil.which("docker-init") is None:
            more["init"] = False
        lines += [f"  {name}:", "    networks: !reset null", "    ports: !reset []"]
        if "build" in project()["services"][name]:
            lines.append("    build: !reset null")
        lines += [f"    {key}: {json.dumps(value)}" for key, value in more.items()]
    return "\n".join(lines) + "\n"


def compose(
    folder: Path, override: Path, engine: DockerEngine, *arguments: str, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run Compose on the compose file and the override, with the engine; the project is `folder`."""
    program = Path(sys.executable).parent / "docker-compose"
    files = ["-f", str(ROOT / "docker-compose.monitoring.yml"), "-f", str(override), "--project-directory", str(folder)]
    command = [str(program), *files, "--profile", "demo", "--progress", "plain", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "DOCKER_HOST": engine.url}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment)


def asked(within: Sequence[str], url: str, token: str | None = None, body: object = None) -> Any:
    """Return the JSON that an address within the network answers, or its text."""
    sent = "" if body is None else json.dumps(body)
    done = subprocess.run(
        [*within, sys.executable, "-c", _ASK, url, token or "", sent], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise OSError(done.stderr.strip().splitlines()[-1])
    try:
        return json.loads(done.stdout)
    except ValueError:
        return done.stdout
