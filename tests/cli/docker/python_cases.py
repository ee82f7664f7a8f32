"""Python of the shapes that repositories have; see `shell_cases`."""

from __future__ import annotations

# fmt: off
CASES: dict[str, str] = {
    "commands.py": r'''
"""Cleans up.

    docker rm -f web
"""
import asyncio
import logging
import os
import shlex
import subprocess
from subprocess import check_call, run

DOCKER = "docker"
CLEAN = "docker system prune -af" #«prune-without-asking»
NAMES = ["rm", "-f"]
log = logging.getLogger(__name__)


def clean(name, grace, container_id):
    subprocess.run(["docker", "rm", "-f", name], check=False) #«forced-remove»
    subprocess.run(("docker", "kill", name)) #«kill»
    subprocess.call(
        [
            "docker", #«forced-remove»
            "rm",
            "--force",
            name,
        ],
        stdout=subprocess.DEVNULL,
    )
    subprocess.Popen("docker kill %s" % name, shell=True) #«kill»
    subprocess.check_output(f"docker rm -f {name}", shell=True) #«forced-remove»
    subprocess.run("docker rm -f {}".format(name).split()) #«forced-remove»
    subprocess.run(shlex.split("docker stop -t 0 " + name)) #«stop-without-grace»
    os.system("docker rm -f " + name + " || true") #«forced-remove»
    os.popen("docker ps -aq | xargs docker rm -f").read() #«forced-remove»
    run([DOCKER, "kill", name]) #«kill»
    check_call([DOCKER, *NAMES, name]) #«forced-remove»
    os.system(CLEAN)
    subprocess.run(["sudo", "docker", "volume", "rm", "-f", "data"]) #«forced-remove-volume»
    subprocess.run(["docker", "stop", "-t", str(0), name]) #«stop-without-grace»
    subprocess.run(["docker", "stop", "--time", "0", name]) #«stop-without-grace»
    subprocess.run(["docker-compose", "-f", "ci.yml", "down", "-v"]) #«compose-down-volumes»
    subprocess.run(["docker", "compose", "-p", name, "kill"]) #«kill»
    subprocess.run(["bash", "-c", f"docker rm -f {name}"]) #«forced-remove»
    os.execvp("docker", ["docker", "kill", name]) #«kill»
    command = ["docker", "rm"] #«forced-remove»
    command += ["-f", name]
    subprocess.run(command)
    script = f"""
set -e
docker stop {name}
docker rm -f {name} #«forced-remove»
"""
    subprocess.run(script, shell=True)
    argv = ["docker", "kill"] + [name] #«kill»
    subprocess.run(argv)


async def clean_async(name):
    proc = await asyncio.create_subprocess_exec("docker", "kill", name) #«kill»
    await asyncio.create_subprocess_shell(f"docker rm -f {name}") #«forced-remove»
    proc.kill()


def safe(name, args):
    # subprocess.run(["docker", "rm", "-f", name])
    subprocess.run(["docker", "stop", "-t", "30", name])
    subprocess.run(["docker", "rm", name])
    subprocess.run(["docker", "kill", "--signal", "SIGHUP", name])
    subprocess.run(["docker", "compose", "-f", "ci.yml", "down"])
    subprocess.run(["docker", "logs", "-f", name])
    subprocess.run(["rm", "-f", "docker.log"])
    subprocess.run(["echo", "docker rm -f"])
    subprocess.run(["docker", "exec", name, "rm", "-f", "/tmp/x"])
    subprocess.run(["docker", *args])
    print("docker rm -f", name)
    print(f"run: docker kill {name}")
    log.warning("docker kill %s did not help", name)
    log.info("docker rm -f %s", name)
    raise RuntimeError("use docker stop, not docker kill")


def test_it(calls, run):
    assert calls == [["docker", "rm", "-f", "web"]]
    assert "docker kill web" not in calls
    run.assert_called_with(["docker", "kill", "web"])
    message = "docker rm -f web"
    return message


HELP = "docker rm -f NAME"
'''.replace(" #«", " «"),
    "wrappers.py": r'''
import subprocess


def _docker(*args, check=True):
    return subprocess.run(["docker", *args], check=check, capture_output=True)


def sh(command):
    subprocess.check_call(command, shell=True)


def execute(cmd, timeout=None):
    print("+", cmd)
    return subprocess.run(cmd, timeout=timeout)


def compose(*args):
    cmd = ["docker", "compose", "-f", "ci.yml", *args]
    return subprocess.run(cmd)


class Stack:
    def engine_call(self, args):
        return subprocess.run(["podman"] + list(args))

    def down(self, name):
        self.engine_call(["rm", "-f", name])  «forced-remove»
        self.engine_call(["rm", name])


_docker("rm", "-f", "web")  «forced-remove»
_docker("stop", "-t", "0", "web", check=False)  «stop-without-grace»
_docker("rm", "web")
_docker("exec", "web", "rm", "-f", "x")
sh("docker kill web")  «kill»
sh(f"docker kill {1}")  «kill»
sh("docker stop web")
execute(["docker", "kill", "web"])  «kill»
compose("down", "-v")  «compose-down-volumes»
compose("down")
''',
    "library.py": r'''
import docker
from docker.models.containers import Container

client = docker.from_env()
api = docker.APIClient()


def clean(name: str, box: Container) -> None:
    c = client.containers.get(name)
    c.stop()
    c.stop(timeout=10)
    c.remove()
    c.remove(v=True)
    c.remove(force=False)
    c.kill(signal="SIGHUP")
    c.kill("SIGTERM")
    c.remove(force=True)  «forced-remove»
    c.kill()  «kill»
    c.kill(signal="SIGKILL")  «kill»
    c.kill(signal=9)  «kill»
    c.stop(timeout=0)  «stop-without-grace»
    c.restart(timeout=0)  «stop-without-grace»
    box.kill()  «kill»
    client.containers.get(name).remove(force=True)  «forced-remove»
    client.containers.run("img", detach=True).kill()  «kill»
    for one in client.containers.list(all=True):
        one.remove(force=True)  «forced-remove»
    [x.kill() for x in client.containers.list()]  «kill»
    client.containers.prune()  «prune-without-asking»
    client.volumes.prune()  «prune-without-asking»
    client.images.prune(filters={"dangling": True})  «prune-without-asking»
    client.networks.prune()  «prune-without-asking»
    client.images.remove(name, force=True)  «forced-remove-image»
    client.images.remove(name)
    client.volumes.get(name).remove(force=True)  «forced-remove-volume»
    volume = client.volumes.get(name)
    volume.remove()
    volume.remove(force=True)  «forced-remove-volume»
    api.remove_container(name, force=True)  «forced-remove»
    api.remove_container(name)
    resource.remove(force=True)  «forced-remove»
    self.runner.run(CommandSpec(argv=("docker", "rm", "-f", name), cwd=here))  «forced-remove»
    rows = [Row("WARN", f"run `docker kill --signal=KILL {name} && docker start {name}` from the host")]
    known = {"docker kill abc", "docker rm -f abc"}
    api.kill(name)  «kill»
    api.stop(name, timeout=0)  «stop-without-grace»
    client.api.remove_container(
        name,
        force=True,
    )
    try:
        pass
    finally:
        if c:
            c.remove(v=True, force=True)  «forced-remove»
'''.replace("    client.api.remove_container(\n", "    client.api.remove_container(  «forced-remove»\n"),
    "others.py": r'''
import os
import shutil
import signal
import subprocess

proc = subprocess.Popen(["docker", "logs", "-f", "x"])
proc.kill()
os.kill(proc.pid, signal.SIGKILL)
shutil.rmtree("docker", ignore_errors=True)
items = ["docker"]
items.remove("docker")
repo.remotes.origin.prune()
registry.remove("x", force=True)
process.stop(timeout=0)
thread.stop(timeout=0)
tree.prune()
cache.containers = []
widget.kill()
''',
    "helpers.py": r'''
import subprocess


class Fixture:
    def close(self):
        self.container.remove(force=True)  «forced-remove»
        self._container.kill()  «kill»
        self.process.kill()


def teardown(container):
    container.stop(timeout=0)  «stop-without-grace»
    container.kill()  «kill»
    container.stop(timeout=5)
    container.remove()
''',
    "aio.py": r'''
import aiodocker


async def clean(name):
    docker = aiodocker.Docker()
    async with aiodocker.Docker() as engine:
        container = await engine.containers.get(name)
        await container.delete(force=True)  «forced-remove»
        await container.kill()  «kill»
        await container.kill(signal="SIGTERM")
        await container.stop(t=0)  «stop-without-grace»
        await container.stop()
        await container.delete()
    await docker.containers.container(name).kill()  «kill»
''',
    "whales.py": r'''
from python_on_whales import DockerClient, docker

docker.remove("web", force=True)  «forced-remove»
docker.container.remove("web", force=True)  «forced-remove»
docker.kill("web")  «kill»
docker.container.kill("web", signal="SIGHUP")
docker.stop("web", time=0)  «stop-without-grace»
docker.stop("web")
docker.compose.down(volumes=True)  «compose-down-volumes»
docker.compose.down()
docker.compose.kill()  «kill»
docker.volume.prune()  «prune-without-asking»
docker.system.prune(all=True)  «prune-without-asking»
docker.logs("web", follow=True)
''',
    "remote.py": r'''
import nox
import paramiko
from fabric import Connection


@nox.session
def clean(session):
    session.run("docker", "rm", "-f", "web", external=True)  «forced-remove»
    session.run("docker", "stop", "web", external=True)
    ssh = paramiko.SSHClient()
    ssh.exec_command("docker rm -f web")  «forced-remove»
    Connection("host").run("docker compose down -v")  «compose-down-volumes»
    Connection("host").sudo("docker kill web")  «kill»
''',
    "old.py": r'''
import os, subprocess
# subprocess.call(["docker", "rm", "-f", "x"])
print "docker rm -f web"
subprocess.call(["docker", "rm", "-f", "web"])  «forced-remove»
os.system("docker kill web")  «kill»
subprocess.call(["docker", "stop", "web"])
''',
    "grown.py": r'''
import subprocess

ENGINE = ["docker", "--context", "prod"] #«forced-remove»


def remove(name, force=True):
    cmd = ENGINE + ["rm"]
    if force:
        cmd.append("--force")
    cmd.append(name)
    subprocess.run(cmd, check=False)


def follow(name):
    words = ["docker", "logs"]
    words.append("-f")
    words.append(name)
    subprocess.run(words)


def gently(name):
    words = ["docker", "rm"]
    words.extend(["--volumes", name])
    subprocess.run(words)


def hard(names):
    line = ["podman", "stop"] #«stop-without-grace»
    line.extend(["-t", "0"])
    line.extend(names)
    subprocess.check_call(line)
''',
    "kept.py": r'''
import subprocess

import docker
import requests_unixsocket

TEMPLATES = {
    "remove": "docker rm -f {name}", #«forced-remove»
    "stop": "docker stop {name}",
}
HELP = {"remove": "docker rm -f {name}"}
TIDY = ["docker ps", "docker volume prune -f"] #«prune-without-asking»
session = requests_unixsocket.Session()
SOCKET = "http+unix://%2Fvar%2Frun%2Fdocker.sock"


class Pool:
    def __init__(self):
        self.client = docker.from_env()
        self.boxes = {}
        self.extra = []
        self.children = []

    def add(self, name):
        self.boxes[name] = self.client.containers.run("alpine", name=name, detach=True)
        self.extra.append(self.client.containers.run("alpine", detach=True))
        self.children.append(subprocess.Popen(["sleep", "1"]))

    def close(self):
        for name, box in self.boxes.items():
            box.kill() #«kill»
        for one in list(self.extra):
            one.stop(timeout=0) #«stop-without-grace»
        for child in self.children:
            child.kill()
        self.boxes.pop("a").remove(force=True) #«forced-remove»


def do(what, name):
    print(HELP[what].format(name=name))
    subprocess.run(TEMPLATES[what].format(name=name), shell=True)
    for command in TIDY:
        subprocess.run(command, shell=True)


def by_api(cid):
    session.delete(f"{SOCKET}/v1.41/containers/{cid}?force=true&v=1") #«forced-remove»
    session.delete(f"{SOCKET}/containers/{cid}", params={"force": True}) #«forced-remove»
    session.post(f"{SOCKET}/containers/{cid}/kill") #«kill»
    session.post(f"{SOCKET}/containers/{cid}/kill?signal=SIGTERM")
    session.delete(f"{SOCKET}/containers/{cid}?v=1")
    session.post(f"{SOCKET}/containers/{cid}/stop?t=20")
''',
    "defaults.py": r'''
import docker

client = docker.from_env()


def hard(name, *, force=True, grace_s=0):
    client.containers.get(name).stop(timeout=grace_s) #«stop-without-grace»
    client.containers.get(name).remove(force=force) #«forced-remove»


def soft(name, force=False, grace_s=10):
    client.containers.get(name).stop(timeout=grace_s)
    client.containers.get(name).remove(force=force)


def asked(name, force):
    client.containers.get(name).remove(force=force)
''',
}
