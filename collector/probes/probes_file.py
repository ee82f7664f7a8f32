"""The operator's file of probes: the only place that says what is probed.

    modules_file: blackbox.yml          # optional: modules as the blackbox exporter has them
    modules:                            # optional: the same format, here
      login_page:
        prober: http
        http: {fail_if_body_not_matches_regexp: ["Sign in"]}
    probes:
      - name: shop
        target: https://shop.example.com/healthz
        module: login_page              # default: http_2xx, or tcp_connect for host:port

docs/probes.md has every field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from isolation_monitor.collector.probes.domain import HttpModule, Module, Probe, TcpModule
from isolation_monitor.collector.probes.modules import ProbesFileError, duration_s, mapping, read_module

LIMIT: Final = 500
"""Probes of one file: each is a time series of its own."""
INTERVAL_S: Final = 10.0
"""With the pages and rules of each 5 s and a check that runs into its timeout, a failure is told of within 30 s and `failing_for`."""
TIMEOUT_S: Final = 5.0
SLOW_AFTER_S: Final = 1.0
SHORTEST_INTERVAL_S: Final = 1.0
_FILE: Final = {"modules_file", "modules", "defaults", "blackbox_url", "probes"}
_DEFAULTS: Final = {"module", "interval", "timeout", "slow_after", "service", "via"}
_PROBE: Final = {"name", "target", *_DEFAULTS}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")
_BUILT_IN: Final = {
    "http_2xx": Module("http_2xx", "http", None, HttpModule()),
    "tcp_connect": Module("tcp_connect", "tcp", None, TcpModule()),
}

Yaml = Mapping[str, Any]  # Any: YAML


@dataclass(frozen=True, slots=True)
class ProbesFile:
    """What a file asks for. `notes` say what of it has no meaning here; `files` are those that were read for it."""

    probes: tuple[Probe, ...]
    blackbox_url: str | None
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def read_probes(path: Path, blackbox_url: str | None = None) -> ProbesFile:
    """Read a file of probes. With `blackbox_url`, or one in the file, that exporter checks all but those with `via: collector`.

    Raises:
        ProbesFileError: a file cannot be read or used; the text has a line for each mistake.
    """
    document = mapping(_yaml(path), str(path))
    mistakes: list[str] = []
    _unknown(document, _FILE, str(path), mistakes)
    url = blackbox_url or document.get("blackbox_url")
    if url is not None and not (isinstance(url, str) and url.startswith(("http://", "https://"))):
        mistakes.append(f"blackbox_url is {url!r}: write the address of a blackbox exporter, such as http://127.0.0.1:9115")
    modules = dict(_BUILT_IN) | _modules(document, path.parent, mistakes)
    defaults = _checked(lambda: mapping(document.get("defaults"), "defaults"), {}, mistakes)
    _unknown(defaults, _DEFAULTS, "defaults", mistakes)
    listed = document.get("probes")
    if not isinstance(listed, list) or not listed:
        mistakes.append("probes must be a list with at least one of {name, target}")
        listed = []
    if len(listed) > LIMIT:
        mistakes.append(f"probes are {len(listed)}, at most {LIMIT} can be checked by one collector")
        listed = []
    probes: dict[str, Probe] = {}
    for number, item in enumerate(listed, 1):
        try:
            probe = _probe(item, defaults, modules, url, f"probe {number}")
        except ProbesFileError as error:
            mistakes.append(str(error))
            continue
        if probe.name in probes:
            mistakes.append(f"probe {number}: the name {probe.name!r} is taken by one before it")
        probes[probe.name] = probe
    if mistakes:
        raise ProbesFileError("\n".join(f"{path}: {mistake.removeprefix(f'{path}: ')}" for mistake in mistakes))
    used = {probe.module for probe in probes.values() if probe.by == "collector"}
    notes = tuple(
        f"module {one.name!r}: {', '.join(one.ignored)} has no effect here" for one in modules.values() if one.ignored and one.name in used
    )
    modules_file = document.get("modules_file")
    files = (path,) if modules_file is None else (path, path.parent / str(modules_file))
    return ProbesFile(tuple(probes.values()), url.rstrip("/") if url else None, notes, files)


def _probe(
    item: object, defaults: Mapping[str, Any], modules: Mapping[str, Module], blackbox_url: str | None, where: str
) -> Probe:  # Any: YAML
    given = mapping(item, where)
    name, target = given.get("name"), given.get("target")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ProbesFileError(f"{where}: name is {name!r}, write up to 100 letters, digits, blanks and . _ -, a letter or digit first")
    where = f"probe {name!r}"
    unknown = sorted(given.keys() - _PROBE)
    if unknown:
        raise ProbesFileError(f"{where}: unknown {', '.join(unknown)}; a probe has {', '.join(sorted(_PROBE))}")
    if not isinstance(target, str) or not target or not target.isprintable() or " " in target:
        raise ProbesFileError(f"{where}: target is {target!r}, write an address such as https://shop.example.com/healthz or db:5432")
    asked = {**defaults, **given}
    via = asked.get("via", "blackbox" if blackbox_url else "collector")
    if via not in ("collector", "blackbox"):
        raise ProbesFileError(f"{where}: via is {via!r}, write collector or blackbox")
    if via == "blackbox" and not blackbox_url:
        raise ProbesFileError(f"{where}: via is blackbox, and no exporter is named: write blackbox_url, or set COLLECTOR_BLACKBOX_URL")
    module_name = asked.get("module") or ("http_2xx" if "://" in target else "tcp_connect")
    if not isinstance(module_name, str):
        raise ProbesFileError(f"{where}: module is {module_name!r}, write the name of one")
    module = modules.get(module_name)
    if via == "collector":
        module = _ours(module, module_name, modules, where)
        _check_target(target, module, where)
    interval = asked.get("interval")
    interval_s = INTERVAL_S if interval is None else duration_s(interval, f"{where}: interval")
    timeout = asked.get("timeout", (module.timeout_s if module else None) or min(TIMEOUT_S, interval_s))
    timeout_s = duration_s(timeout, f"{where}: timeout")
    if interval is None:
        # A file that only asks for patience is no mistake.
        interval_s = max(interval_s, timeout_s)
    if interval_s < SHORTEST_INTERVAL_S or timeout_s > interval_s:
        raise ProbesFileError(
            f"{where}: timeout {timeout_s:g}s, interval {interval_s:g}s: a check must end before the next one begins; 1s or more apart"
        )
    service = asked.get("service", name)
    if not isinstance(service, str) or not 0 < len(service) <= 100 or not service.isprintable():
        raise ProbesFileError(f"{where}: service is {service!r}, write the name of the service whose endpoint it is")
    return Probe(
        name, service, target, module_name, module.asks if module else None, via, interval_s, timeout_s,
        duration_s(asked.get("slow_after", SLOW_AFTER_S), f"{where}: slow_after"),
        module.prefers_ipv6 if module else True, module.falls_back if module else True,
    )  # fmt: skip


def _ours(module: Module | None, name: object, modules: Mapping[str, Module], where: str) -> Module:
    if module is None:
        raise ProbesFileError(f"{where}: there is no module {name!r}; there are {', '.join(sorted(modules))}")
    if module.unsupported:
        raise ProbesFileError(
            f"{where}: module {name!r} uses what the collector does not support: {', '.join(module.unsupported)}. Take it out, or let a "
            "blackbox exporter check it: blackbox_url (docs/probes.md)"
        )
    return module


def _check_target(target: str, module: Module, where: str) -> None:
    try:
        parts = urlsplit(target if "://" in target else f"//{target}")
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise ProbesFileError(f"{where}: target {target!r} is no address: {error}") from None
    if module.prober == "http" and (parts.scheme not in ("http", "https") or not host):
        raise ProbesFileError(f"{where}: target {target!r} of an HTTP probe begins with http:// or https:// and a host")
    if module.prober == "tcp" and (parts.scheme or not host or port is None):
        raise ProbesFileError(f"{where}: target {target!r} of a TCP probe is host:port")
    if parts.username is not None:
        raise ProbesFileError(f"{where}: target holds a password; write basic_auth with a password_file into a module")


def _modules(document: Yaml, folder: Path, mistakes: list[str]) -> dict[str, Module]:
    found: dict[str, Module] = {}
    sources = [(document.get("modules"), folder)]
    file = document.get("modules_file")
    if file is not None:
        path = folder / str(file)
        content = _checked(lambda: mapping(_yaml(path), str(path)), {}, mistakes)
        sources.insert(0, (content.get("modules"), path.parent))
    for modules, base in sources:
        for name, value in _checked(lambda given=modules: mapping(given, "modules"), {}, mistakes).items():
            try:
                found[name] = read_module(name, value, base)
            except ProbesFileError as error:
                mistakes.append(str(error))
    return found


def _yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ProbesFileError(f"{path} cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ProbesFileError(f"{path}{line} is no YAML: {getattr(error, 'problem', None) or 'it cannot be read'}") from None


def _checked(read: Any, instead: Any, mistakes: list[str]) -> Any:  # Any: whatever `read` returns
    try:
        return read()
    except ProbesFileError as error:
        mistakes.append(str(error))
        return instead


def _unknown(given: Yaml, known: set[str], where: str, mistakes: list[str]) -> None:
    if given.keys() - known:
        mistakes.append(f"{where}: unknown {', '.join(sorted(given.keys() - known))}; there are {', '.join(sorted(known))}")
