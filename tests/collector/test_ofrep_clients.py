"""OFREP as others speak it: the provider of PyPI under the Python SDK, and the provider of npm under the SDK for Node."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

from isolation_monitor.demo.binaries import NODE, NPM
from isolation_monitor.telemetry.flags.bucketing import FlagRule, variant_of
from tests.real_parts.flag_server import SEND, Rollouts, flag_server, rule
from tests.real_parts.installed import installed

SCRIPT = Path(__file__).parent / "ofrep" / "evaluate.mjs"
PACKAGES = ("@openfeature/server-sdk@1.23.0", "@openfeature/core@1.12.0", "@openfeature/ofrep-provider@0.1.3")
ROLLOUTS = (
    rule("checkout-v2"),
    rule("greeting", percent=100.0, variants={"on": "hello", "off": "hi"}),
    rule("internal", percent=0.0, internal={"attribute": "email_domain", "in": ["example.com"]}),
    rule("rolled-back", enabled=False),
)
USERS = [f"user-{n}" for n in range(20)]

Answer = tuple[Any, str | None, str, str | None]
"""Value, variant, reason, error code."""

EXPECTED: list[tuple[str, Any, dict[str, Any], Answer]] = [
    *(
        ("checkout-v2", False, {"targetingKey": user}, (variant == "on", variant, reason, None))
        for user in USERS
        for variant, reason in [variant_of(FlagRule("checkout-v2", True, 50.0), user, {})]
    ),
    ("checkout-v2", False, {}, (False, None, "ERROR", "TARGETING_KEY_MISSING")),
    ("checkout-v2", True, {"plan": "free"}, (True, None, "ERROR", "TARGETING_KEY_MISSING")),
    ("greeting", "hey", {"targetingKey": "ann"}, ("hello", "on", "STATIC", None)),
    ("greeting", False, {"targetingKey": "ann"}, (False, None, "ERROR", "TYPE_MISMATCH")),
    ("internal", False, {"targetingKey": "ann", "email_domain": "example.com"}, (True, "on", "TARGETING_MATCH", None)),
    ("internal", False, {"targetingKey": "ann", "email_domain": "example.org"}, (False, "off", "STATIC", None)),
    ("rolled-back", True, {"targetingKey": "ann"}, (False, "off", "DISABLED", None)),
    ("unknown", True, {"targetingKey": "ann"}, (True, None, "ERROR", "FLAG_NOT_FOUND")),
]


@pytest.fixture(scope="module")
def collector_url() -> Iterator[str]:
    with flag_server(Rollouts(*ROLLOUTS)) as url:
        yield url


@contextlib.contextmanager
def python_client(collector_url: str, token: str) -> Iterator[Any]:
    provider = OFREPProvider(collector_url, headers_factory=lambda: {"Authorization": f"Bearer {token}"})
    api.set_provider_and_wait(provider)
    try:
        yield api.get_client()
    finally:
        api.clear_providers()
        # The provider has no shutdown of its own, and its connection would outlive the test.
        provider.session.close()


def test_the_python_provider_of_pypi_gets_what_the_services_decide(collector_url):
    with python_client(collector_url, SEND) as client:
        for key, fallback, context, expected in EXPECTED:
            attributes = {name: value for name, value in context.items() if name != "targetingKey"}
            person = EvaluationContext(context.get("targetingKey"), attributes)
            ask = client.get_boolean_details if isinstance(fallback, bool) else client.get_string_details
            found = ask(key, fallback, person)
            code = str(found.error_code.value) if found.error_code else None
            assert (found.value, found.variant, str(found.reason), code) == expected, key


def test_a_wrong_token_leaves_the_python_provider_with_the_default(collector_url):
    with python_client(collector_url, "wrong") as client:
        found = client.get_boolean_details("checkout-v2", True, EvaluationContext("ann"))

    assert (found.value, found.error_message) == (True, "unauthorized")


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of npm, as a service in Node has them."""
    folder = tmp_path_factory.mktemp("ofrep")
    shutil.copy(SCRIPT, folder)
    options = ["--no-audit", "--no-fund", "--no-update-notifier", "--no-package-lock", "--prefix", str(folder)]
    command = [str(installed(NPM).path), "install", *options, "--cache", str(folder / "cache"), *PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_node_provider_of_npm_gets_what_the_services_decide(collector_url, node_folder):
    questions = "".join(json.dumps({"key": key, "fallback": fallback, "context": context}) + "\n" for key, fallback, context, _ in EXPECTED)
    command = [str(installed(NODE).path), "evaluate.mjs", collector_url, SEND]
    done = subprocess.run(command, cwd=node_folder, input=questions, capture_output=True, text=True, check=False, timeout=300)

    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["value"], one["variant"], one["reason"], one["error"]) for one in found] == [expected for *_, expected in EXPECTED]
