"""Sends the report of one run (`ci-run/1`) to the collector: the one way for files of this machine and for what a forge keeps."""

from __future__ import annotations

import time
from typing import Any, Final

from isolation_monitor.cli.collector_client import CollectorClient, NoAnswer, NotACollector, TooLargeToTake

Json = dict[str, Any]  # Any: JSON

TIMEOUT_S: Final = 60.0
_PAUSES_S: Final = (1.0, 4.0)


def send_report(body: Json, client: CollectorClient) -> Json:
    """Send the report until it is answered, a few times at most: by its id it is kept once. Return what it means (`ci-run-story/1`).

    Raises:
        TooLargeToTake: it has more tests than the collector takes; the text says what to change.
        NotTaken: something in it is beyond what the collector takes.
        UsageError: the token is wrong.
        NoAnswer: the collector gave none.
    """
    for pause_s in (*_PAUSES_S, None):
        try:
            answer = client.request("POST", "/v1/ci/runs", body, is_large=True)
        except NoAnswer:
            if pause_s is None:
                raise
            time.sleep(pause_s)
        except TooLargeToTake as error:
            raise TooLargeToTake(
                f"{len(body['tests'])} tests are too much for this collector ({error}): raise COLLECTOR_MAX_INFLATED_BYTES and "
                "COLLECTOR_MAX_BODY_BYTES there, or report the files in parts, each part as a --suite of its own"
            ) from None
        else:
            break
    if answer.get("schema") != "ci-run-story/1":
        raise NotACollector
    return answer
