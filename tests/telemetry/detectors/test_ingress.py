"""Ingress: what a request is about, as far as its router or its path tell."""

from __future__ import annotations

from typing import Any

import pytest

from isolation_monitor.telemetry.detectors.ingress import Ingress


@pytest.mark.parametrize(
    ("path", "parameters", "addresses"),
    [
        ("/orders/12/messages", None, {"12"}),
        ("/orders/12/messages/7", None, {"12", "7"}),
        # A router that found no parameter: the number is a name of its own.
        ("/orders/12/messages", {}, set()),
        ("/rooms/blue", {"room": "blue"}, {"blue"}),
        # These choose a part of the service, not somebody's data.
        ("/pages/2", None, set()),
        ("/v2/me", None, set()),
        ("/orders/" + "1" * 40, None, set()),
    ],
)
def test_what_a_path_is_about(path: str, parameters: dict[str, str] | None, addresses: set[str]) -> None:
    scope: dict[str, Any] = {"type": "http", "path": path} | ({} if parameters is None else {"path_params": parameters})
    said = Ingress()

    said.add_routed(scope)

    assert said.addresses == addresses
