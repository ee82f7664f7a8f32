"""OTLP logs in: what any language's OpenTelemetry sends becomes records, once, in either encoding."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from sqlalchemy import select

from isolation_monitor.collector.evidence.otlp import JSON, PROTOBUF
from isolation_monitor.collector.storage.models import UnknownRecordRow
from isolation_monitor.demo.binaries import NODE, NPM
from tests.collector.conftest import SEND, Api, bearer, until
from tests.real_parts.collector import Collector, collector
from tests.real_parts.installed import installed

AT_NS = 1_767_268_799_900_000_000
"""2026-01-01T11:59:59.900Z"""
SCRIPT = Path(__file__).parent / "otlp" / "send.mjs"
PACKAGES = ("@opentelemetry/api-logs@0.203.0", "@opentelemetry/sdk-logs@0.203.0", "@opentelemetry/exporter-logs-otlp-http@0.203.0")
VIOLATION: dict[str, Any] = {
    "isolation.record.type": "violation",
    "isolation.record.kind": "wrong_socket",
    "isolation.record.grade": "crossed",
    "isolation.record.detector": "gateway",
    "isolation.record.synthetic": False,
    "isolation.record.resource": {"type": "websocket", "name": "socket"},
    "isolation.record.victim.principal": "a1b2c3d4e5f60718",
    "isolation.record.victim.stack": ["gateway.js:40 send"],
}


def any_value(value: Any) -> AnyValue:
    match value:
        case None:
            return AnyValue()
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case bytes():
            return AnyValue(bytes_value=value)
        case dict():
            return AnyValue(kvlist_value=KeyValueList(values=pairs(value)))
        case list():
            return AnyValue(array_value=ArrayValue(values=[any_value(item) for item in value]))
    return AnyValue(string_value=value)


def pairs(values: dict[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=any_value(value)) for key, value in values.items()]


def export(*logs: dict[str, Any], service: str = "chat", at_ns: int = AT_NS) -> ExportLogsServiceRequest:
    """Return a request with one resource; each log has `attributes` and what else LogRecord takes, in plain values."""
    request = ExportLogsServiceRequest()
    one = request.resource_logs.add()
    one.resource.attributes.extend(pairs({"service.name": service, "service.instance.id": "gateway-1"}))
    scope = one.scope_logs.add()
    scope.scope.name = "gateway"
    for log in logs:
        record = scope.log_records.add(time_unix_nano=log.get("at_ns", at_ns), severity_number=17, severity_text="ERROR")
        record.attributes.extend(pairs(log.get("attributes", {})))
        record.trace_id, record.span_id = log.get("trace_id", b""), log.get("span_id", b"")
        if "body" in log:
            record.body.CopyFrom(any_value(log["body"]))
    return request


def as_json(request: ExportLogsServiceRequest) -> bytes:
    """Return the request as OTLP's JSON has it: protobuf's own, but ids in hexadecimal."""
    from google.protobuf.json_format import MessageToDict

    value = MessageToDict(request, use_integers_for_enums=True)
    for one, made in zip(request.resource_logs, value["resourceLogs"], strict=True):
        for scope, made_scope in zip(one.scope_logs, made["scopeLogs"], strict=True):
            for record, made_record in zip(scope.log_records, made_scope["logRecords"], strict=True):
                for name, sent in (("traceId", record.trace_id), ("spanId", record.span_id)):
                    if sent:
                        made_record[name] = sent.hex()
    return json.dumps(value).encode()


async def post(api: Api, request: ExportLogsServiceRequest, media: str = PROTOBUF, **headers: str) -> Any:
    body = as_json(request) if media == JSON else request.SerializeToString()
    if headers.get("Content-Encoding") == "gzip":
        body = gzip.compress(body)
    return await api.client.post("/v1/logs", content=body, headers=bearer(SEND) | {"Content-Type": media} | headers)


def rejected(answer: Any) -> tuple[int, str]:
    """Return how many log records the answer rejects, and why."""
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == JSON:
        partial = answer.json().get("partialSuccess", {})
        return int(partial.get("rejectedLogRecords", 0)), partial.get("errorMessage", "")
    partial = ExportLogsServiceResponse.FromString(answer.content).partial_success
    return partial.rejected_log_records, partial.error_message


async def unknown(api: Api) -> list[Any]:
    async with api.app.state.runtime.database.reading() as connection:
        return list((await connection.execute(select(UnknownRecordRow.__table__).order_by(UnknownRecordRow.time))).all())


@pytest.mark.parametrize("media", [PROTOBUF, JSON])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_log_record_that_names_a_record_becomes_it(api: Api, media: str, encoding: str) -> None:
    request = export({"attributes": VIOLATION, "body": "a frame of ann on the socket of bob", "trace_id": b"\x01" * 16})

    answer = await post(api, request, media, **{"Content-Encoding": encoding})
    [found] = (await api.get("/v1/violations")).json()["items"]

    assert rejected(answer) == (0, "")
    assert (found["service"], found["instance"], found["time"]) == ("chat", "gateway-1", "2026-01-01T11:59:59.900Z")
    assert (found["kind"], found["grade"], found["summary"]) == ("wrong_socket", "crossed", "a frame of ann on the socket of bob")
    assert found["victim"] == {"principal": "a1b2c3d4e5f60718", "stack": ["gateway.js:40 send"]}
    assert found["extra"]["trace_id"] == "01" * 16


async def test_fields_may_stand_in_a_body_that_is_a_map_and_attributes_win(api: Api) -> None:
    body = {"kind": "wrong_socket", "grade": "reachable", "detector": "gateway", "synthetic": False, "id": "v-1"}

    await post(api, export({"body": body, "attributes": {"isolation.record.type": "violation", "isolation.record.grade": "crossed"}}))

    assert (await api.get("/v1/violations/v-1")).json()["grade"] == "crossed"


async def test_other_log_records_are_kept_as_they_are(api: Api) -> None:
    log = {"attributes": {"http.route": "/ws", "n": 3, "raw": b"\x00\x01", "nan": float("nan")}, "body": {"a": [1, None]}}

    await post(api, export(log))
    [found] = await unknown(api)

    assert (found.type, found.service) == ("log", "chat")
    assert found.body["body"] == {"a": [1, None]}
    assert found.body["attributes"] == {"http.route": "/ws", "n": 3, "raw": "AAE=", "nan": "NaN"}
    assert (found.body["severity_text"], found.body["scope"]) == ("ERROR", "gateway")


async def test_the_same_logs_again_in_any_encoding_and_order_of_attributes_are_no_new_records(api: Api) -> None:
    """Its id is made of what it says: UUIDv7 in form, with the time of the log record, so that stores may sort and part by it."""
    turned = dict(reversed(VIOLATION.items()))
    logs = [{"attributes": VIOLATION}, {"body": "one"}, {"body": "two"}]

    for media, first in ((PROTOBUF, VIOLATION), (JSON, VIOLATION), (PROTOBUF, turned)):
        await post(api, export({"attributes": first}, *logs[1:]), media)
    violations = (await api.get("/v1/violations")).json()["items"]
    ids = [row.id for row in await unknown(api)] + [one["id"] for one in violations]

    assert (len(violations), len(ids), len(set(ids))) == (1, 3, 3)
    assert all(one[14] == "7" and int(one.replace("-", "")[:12], 16) == AT_NS // 1_000_000 for one in ids)


@pytest.mark.parametrize("media", [PROTOBUF, JSON])
async def test_log_records_that_cannot_be_kept_are_a_partial_success(api: Api, media: str) -> None:
    deep: Any = "end"
    for _ in range(40):
        deep = [deep]
    logs = [{"body": "good"}, {"attributes": VIOLATION | {"isolation.record.grade": "odd"}}, {"body": "x" * 70_000}, {"body": deep}]

    number, why = rejected(await post(api, export(*logs, {"body": "timeless", "at_ns": 0}), media))

    assert number == 4
    assert "1: grade" in why
    assert "2: has 70" in why
    assert [row.body["body"] for row in await unknown(api)] == ["good"]


async def test_harm_that_comes_as_a_log_is_harm(api: Api) -> None:
    await api.apply()
    await api.step("start")
    api.clock.advance(1)

    await post(api, export({"attributes": VIOLATION}, at_ns=AT_NS + 1_000_000_000))

    async def is_taken_back() -> bool:
        return bool((await api.state())["status"] == "rolled_back")

    await until(is_taken_back)


@pytest.mark.parametrize("media", [PROTOBUF, JSON])
async def test_refusals_speak_the_protocol_of_the_sender(make_api: Callable[..., Any], sqlite_url: str, media: str) -> None:
    async with make_api(sqlite_url) as api:
        intake = api.app.state.intake
        broken = await api.client.post("/v1/logs", content=b"\xff{", headers=bearer(SEND) | {"Content-Type": media})
        with intake.hold() as held:
            held.take(intake.limit_bytes - 1_000)
            full = await post(api, export({"body": "x" * 2_000}), media)
        again = await post(api, export({"body": "x" * 2_000}), media)

    assert (broken.status_code, full.status_code, again.status_code) == (400, 503, 200)
    assert int(full.headers["Retry-After"]) >= 1
    for answer in (broken, full):
        told = answer.json()["message"] if media == JSON else Status.FromString(answer.content).message
        assert told
        assert answer.headers["content-type"] == media


@pytest.mark.parametrize(
    ("media", "body"),
    [
        (PROTOBUF, b"\x0a\xd0\x86\x03\x12\xcc\x86\x03" + b"\x12\x00" * 25_000 + b"\x12\x00" * 670),
        (JSON, b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[' + b"{}," * 300_000 + b"{}]}]}]}"),
    ],
)
async def test_more_log_records_than_are_taken_are_refused_before_they_are_made(api: Api, media: str, body: bytes) -> None:
    """Two bytes are a log record in protobuf, and hundreds in memory."""
    answer = await api.client.post("/v1/logs", content=body, headers=bearer(SEND) | {"Content-Type": media})

    assert answer.status_code == 413


async def test_text_that_was_cut_within_a_character_costs_nothing_but_the_character(api: Api) -> None:
    """JavaScript writes lone surrogates as escapes, which many decoders refuse together with the whole batch."""
    body = as_json(export({"body": "cut @"})).replace(b"@", b"\\ud83d")

    answer = await api.client.post("/v1/logs", content=body, headers=bearer(SEND) | {"Content-Type": JSON})

    assert rejected(answer) == (0, "")
    assert [row.body["body"] for row in await unknown(api)] == ["cut ?"]


async def test_nothing_in_nothing_out(api: Api) -> None:
    answer = await post(api, ExportLogsServiceRequest())

    assert (answer.status_code, answer.content) == (200, b"")


def stored(running: Collector) -> list[dict[str, Any]]:
    import urllib.request

    request = urllib.request.Request(f"{running.url}/v1/violations", headers=running.reading)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return list(json.load(answer)["items"])


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_the_exporter_of_opentelemetry_for_python_delivers_a_violation(tmp_path: Path, compression: str) -> None:
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.resources import Resource

    with collector(tmp_path) as running:
        exporter = OTLPLogExporter(f"{running.url}/v1/logs", headers=running.sending, compression=Compression(compression), timeout=60)
        provider = LoggerProvider(Resource({"service.name": "gateway", "service.instance.id": "g-1"}))
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
        logger = provider.get_logger("gateway")

        logger.emit(LogRecord(timestamp=AT_NS, severity_number=SeverityNumber.ERROR, body="foreign frame", attributes=VIOLATION))
        logger.emit(LogRecord(timestamp=AT_NS, severity_number=SeverityNumber.INFO, body="nothing special"))
        assert provider.force_flush(60_000)
        provider.shutdown()

        [found] = stored(running)
    assert (found["service"], found["kind"], found["summary"]) == ("gateway", "wrong_socket", "foreign frame")
    assert found["victim"]["principal"] == "a1b2c3d4e5f60718"


@pytest.mark.slow
def test_the_exporter_of_npm_delivers_a_violation(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    shutil.copy(SCRIPT, folder)
    options = ["--no-audit", "--no-fund", "--no-update-notifier", "--no-package-lock", "--prefix", str(folder)]
    command = [str(installed(NPM).path), "install", *options, "--cache", str(folder / "cache"), *PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr

    with collector(tmp_path / "collector") as running:
        sender = [str(installed(NODE).path), "send.mjs", f"{running.url}/v1/logs", running.send_token, json.dumps(VIOLATION)]
        sent = subprocess.run(sender, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
        assert sent.returncode == 0, sent.stderr
        [found] = stored(running)

    assert (found["service"], found["kind"], found["summary"]) == ("gateway-js", "wrong_socket", "foreign frame")
    assert found["victim"] == {"principal": "a1b2c3d4e5f60718", "stack": ["gateway.js:40 send"]}
