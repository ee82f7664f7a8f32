"""Modules in the format of the blackbox exporter's `blackbox.yml`, for probes over HTTP and TCP.

Every field of the exporter is one of three: supported here, without meaning here (`ignored`), or not supported. A module with a field
that is not supported is never checked by half: a probe that uses it is refused, unless a blackbox exporter checks it.
Source: CONFIGURATION.md of prometheus/blackbox_exporter, 0.28.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from isolation_monitor.collector.probes.domain import Exchange, HeaderRule, HttpModule, Module, Secret, TcpModule, Tls

PROBERS: Final = ("http", "tcp", "dns", "icmp", "grpc", "unix")
_MODULE: Final = {"prober", "timeout", *PROBERS}
_HTTP: Final = {
    "valid_status_codes", "valid_http_versions", "preferred_ip_protocol", "ip_protocol_fallback", "no_follow_redirects", "follow_redirects",
    "fail_if_ssl", "fail_if_not_ssl", "method", "headers", "body", "body_file", "body_size_limit", "fail_if_body_matches_regexp",
    "fail_if_body_not_matches_regexp", "fail_if_header_matches", "fail_if_header_not_matches", "basic_auth", "authorization",
    "bearer_token", "bearer_token_file", "tls_config",
}  # fmt: skip
_HTTP_IGNORED: Final = {"enable_http2", "enable_http3", "skip_resolve_phase_with_proxy", "no_proxy", "proxy_from_environment"}
"""HTTP/1.1 is spoken, straight to the endpoint: these change nothing of what is checked."""
_TCP: Final = {"preferred_ip_protocol", "ip_protocol_fallback", "query_response", "tls", "tls_config", "source_ip_address"}
_TLS: Final = {"insecure_skip_verify", "ca_file", "cert_file", "key_file", "server_name", "min_version", "max_version"}
_TLS_VERSIONS: Final = ("TLS10", "TLS11", "TLS12", "TLS13")
_EXCHANGE: Final = {"expect", "send", "starttls"}
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_METHODS: Final = re.compile(r"[A-Z]{1,20}")
_UNITS: Final = {"": 1, "b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "k": 2**10, "m": 2**20, "g": 2**30}
_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")

Json = Mapping[str, Any]  # Any: YAML


class ProbesFileError(Exception):
    """A file of probes or modules cannot be used. Each line of the text says where, what was found and what to write."""


def duration_s(value: object, where: str) -> float:
    """Return seconds of `30s`, `1m30s`, `500ms` or a plain number of seconds.

    Raises:
        ProbesFileError: it is none of these, or not above zero.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        found = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
        if found is None:
            raise ProbesFileError(f"{where} is {value!r}: write a duration such as 30s, 1m30s or 500ms")
        hours, minutes, rest, thousandths = (float(part or 0) for part in found.groups())
        seconds = hours * 3600 + minutes * 60 + rest + thousandths / 1000
    if not 0 < seconds <= 86400:
        raise ProbesFileError(f"{where} is {value!r}: it must be above zero and at most a day")
    return seconds


def mapping(value: object, where: str) -> Json:
    """Return `value` as a mapping; nothing at all is an empty one. Raises ProbesFileError otherwise."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ProbesFileError(f"{where} must be a mapping of names, found {_what(value)}")
    return value


def read_module(name: str, value: object, folder: Path) -> Module:
    """Return one module. Paths in it begin at `folder`.

    Raises:
        ProbesFileError: it is not a module, a field is unknown or its value cannot be used.
    """
    where = f"module {name!r}"
    fields = mapping(value, where)
    unknown = fields.keys() - _MODULE
    if unknown:
        raise ProbesFileError(f"{where}: unknown {_list(unknown)}; a module has prober, timeout and a section named as its prober")
    prober = fields.get("prober")
    if prober not in PROBERS:
        raise ProbesFileError(f"{where}: prober is {prober!r}, write one of {', '.join(PROBERS)}")
    timeout = None if fields.get("timeout") is None else duration_s(fields["timeout"], f"{where}: timeout")
    section = mapping(fields.get(prober), f"{where}: {prober}")
    if prober not in ("http", "tcp"):
        return Module(name, prober, timeout, None, unsupported=(f"prober {prober}",))
    supported, ignored = (_HTTP, _HTTP_IGNORED) if prober == "http" else (_TCP, set())
    unsupported = [f"{prober}.{key}" for key in section if key not in supported | ignored]
    tls = mapping(section.get("tls_config"), f"{where}: {prober}.tls_config")
    unsupported += [f"{prober}.tls_config.{key}" for key in tls if key not in _TLS]
    if prober == "tcp":
        steps = _items(section.get("query_response"), f"{where}: tcp.query_response")
        unsupported += sorted({f"tcp.query_response.{key}" for step in steps for key in mapping(step, where) if key not in _EXCHANGE})
    if "HTTP/2.0" in _texts(section.get("valid_http_versions"), where) and prober == "http":
        unsupported.append("http.valid_http_versions HTTP/2.0")
    asks = None if unsupported else _http(section, tls, where, folder) if prober == "http" else _tcp(section, tls, where, folder)
    protocol = section.get("preferred_ip_protocol", "ip6")
    if protocol not in ("ip4", "ip6"):
        raise ProbesFileError(f"{where}: preferred_ip_protocol is {protocol!r}, write ip4 or ip6")
    return Module(
        name, prober, timeout, asks, protocol == "ip6", _is(section, "ip_protocol_fallback", where, default=True),
        tuple(unsupported), tuple(f"{prober}.{key}" for key in section if key in ignored),
    )  # fmt: skip


def _http(section: Json, tls: Json, where: str, folder: Path) -> HttpModule:
    follows = _is(section, "follow_redirects", where, default=True) and not _is(section, "no_follow_redirects", where)
    method = section.get("method") or "GET"
    if not isinstance(method, str) or not _METHODS.fullmatch(method):
        raise ProbesFileError(f"{where}: http.method is {method!r}, write it in capitals, such as GET")
    headers = mapping(section.get("headers"), f"{where}: http.headers")
    for name, value in headers.items():
        if not isinstance(value, (str, int, float)) or not str(value).isprintable() or not str(value).isascii():
            raise ProbesFileError(f"{where}: http.headers.{name} must be one line of ASCII text")
        if not _HEADER.fullmatch(name):
            raise ProbesFileError(f"{where}: http.headers {name!r} is no name of a header, such as X-Token")
    statuses = section.get("valid_status_codes") or []
    if not isinstance(statuses, list) or not all(isinstance(one, int) and 100 <= one <= 599 for one in statuses):
        raise ProbesFileError(f"{where}: http.valid_status_codes is {statuses!r}, write a list of numbers such as [200, 204]")
    auth_type, user, secret = _auth(section, where, folder)
    return HttpModule(
        method=method,
        headers=tuple((name, str(value)) for name, value in headers.items()),
        body=_text(section, "body", where),
        body_file=_path(section, "body_file", where, folder),
        valid_statuses=frozenset(statuses),
        valid_versions=frozenset(_texts(section.get("valid_http_versions"), where)),
        follows_redirects=follows,
        fails_if_tls=_is(section, "fail_if_ssl", where),
        fails_if_not_tls=_is(section, "fail_if_not_ssl", where),
        body_must_not_match=_patterns(section, "fail_if_body_matches_regexp", where),
        body_must_match=_patterns(section, "fail_if_body_not_matches_regexp", where),
        header_must_not_match=tuple(_header_rules(section, "fail_if_header_matches", where)),
        header_must_match=tuple(_header_rules(section, "fail_if_header_not_matches", where)),
        body_limit_bytes=_size(section.get("body_size_limit"), f"{where}: http.body_size_limit"),
        auth_type=auth_type,
        auth_user=user,
        auth_secret=secret,
        tls=_tls(tls, where, folder),
    )


def _tcp(section: Json, tls: Json, where: str, folder: Path) -> TcpModule:
    exchanges = []
    for number, item in enumerate(_items(section.get("query_response"), f"{where}: tcp.query_response"), 1):
        step, place = mapping(item, where), f"{where}: tcp.query_response {number}"
        expect = _text(step, "expect", place)
        exchanges.append(
            Exchange(_pattern(expect, f"{place}: expect") if expect else None, _is(step, "starttls", place), _text(step, "send", place))
        )
    source = _text(section, "source_ip_address", where) or None
    try:
        ipaddress.ip_address(source or "::")
    except ValueError:
        raise ProbesFileError(f"{where}: tcp.source_ip_address is {source!r}, write an IP address of this machine") from None
    return TcpModule(tuple(exchanges), _is(section, "tls", where), _tls(tls, where, folder), source)


def _auth(section: Json, where: str, folder: Path) -> tuple[str, str, Secret]:
    ways = [name for name in ("basic_auth", "authorization", "bearer_token", "bearer_token_file") if section.get(name) is not None]
    if len(ways) > 1:
        raise ProbesFileError(f"{where}: {' and '.join(ways)} are both given, one of them signs in")
    if not ways:
        return "", "", Secret()
    if ways[0] == "basic_auth":
        basic = mapping(section["basic_auth"], f"{where}: http.basic_auth")
        _only(basic, {"username", "password", "password_file"}, f"{where}: http.basic_auth")
        secret = Secret(_text(basic, "password", where), _path(basic, "password_file", where, folder))
        return "Basic", _text(basic, "username", where) or "", secret
    if ways[0] == "authorization":
        given = mapping(section["authorization"], f"{where}: http.authorization")
        _only(given, {"type", "credentials", "credentials_file"}, f"{where}: http.authorization")
        secret = Secret(_text(given, "credentials", where), _path(given, "credentials_file", where, folder))
        return _text(given, "type", where) or "Bearer", "", secret
    return "Bearer", "", Secret(_text(section, "bearer_token", where), _path(section, "bearer_token_file", where, folder))


def _tls(tls: Json, where: str, folder: Path) -> Tls:
    versions = {}
    for name in ("min_version", "max_version"):
        version = tls.get(name)
        if version is not None and version not in _TLS_VERSIONS:
            raise ProbesFileError(f"{where}: tls_config.{name} is {version!r}, write one of {', '.join(_TLS_VERSIONS)}")
        versions[name] = version
    return Tls(
        verifies=not _is(tls, "insecure_skip_verify", where),
        ca_file=_path(tls, "ca_file", where, folder),
        cert_file=_path(tls, "cert_file", where, folder),
        key_file=_path(tls, "key_file", where, folder),
        server_name=_text(tls, "server_name", where),
        **versions,
    )


def _header_rules(section: Json, key: str, where: str) -> Iterator[HeaderRule]:
    for number, item in enumerate(_items(section.get(key), f"{where}: http.{key}"), 1):
        place = f"{where}: http.{key} {number}"
        rule = mapping(item, place)
        _only(rule, {"header", "regexp", "allow_missing"}, place)
        header, expression = _text(rule, "header", place), _text(rule, "regexp", place)
        if not header or expression is None:
            raise ProbesFileError(f"{place}: it needs header and regexp")
        yield HeaderRule(header, _pattern(expression, place), _is(rule, "allow_missing", place))


def _patterns(section: Json, key: str, where: str) -> tuple[re.Pattern[str], ...]:
    return tuple(_pattern(one, f"{where}: http.{key}") for one in _texts(section.get(key), f"{where}: http.{key}"))


def _pattern(text: str, where: str) -> re.Pattern[str]:
    try:
        # `\z` is Go's end of text; Python's is `\Z`.
        return re.compile(text.replace(r"\z", r"\Z"))
    except re.error as error:
        raise ProbesFileError(f"{where}: {text!r} is no regular expression of Python: {error}") from None


def _size(value: object, where: str) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value or None
    found = re.fullmatch(r"(\d+)\s*([a-zA-Z]*)", str(value))
    unit = _UNITS.get(found[2].lower().replace("ib", "b")) if found else None
    if found is None or unit is None:
        raise ProbesFileError(f"{where} is {value!r}: write a number of bytes, or 64KB or 10MB")
    return int(found[1]) * unit or None


def _is(section: Json, key: str, where: str, *, default: bool = False) -> bool:
    value = section.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ProbesFileError(f"{where}: {key} is {value!r}, write true or false")
    return value


def _text(section: Json, key: str, where: str) -> str | None:
    value = section.get(key)
    if value is not None and not isinstance(value, str):
        raise ProbesFileError(f"{where}: {key} is {_what(value)}, write a text")
    return value


def _path(section: Json, key: str, where: str, folder: Path) -> str | None:
    value = _text(section, key, where)
    return None if not value else str(folder / value)


def _texts(value: object, where: str) -> list[str]:
    items = _items(value, where)
    if not all(isinstance(one, str) for one in items):
        raise ProbesFileError(f"{where} must be a list of texts")
    return items


def _items(value: object, where: str) -> list[Any]:  # Any: YAML
    if value is None:
        return []
    if not isinstance(value, list):
        raise ProbesFileError(f"{where} must be a list, found {_what(value)}")
    return value


def _only(fields: Json, known: set[str], where: str) -> None:
    unknown = fields.keys() - known
    if unknown:
        raise ProbesFileError(f"{where}: unknown {_list(unknown)}; there are {_list(known)}")


def _list(names: set[str] | Any) -> str:  # Any: a view of keys
    return ", ".join(sorted(names))


def _what(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"
