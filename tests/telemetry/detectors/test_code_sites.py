"""Code sites: the lines that write to a shared place are named, those that only read it after them."""

from __future__ import annotations

from types import ModuleType

import pytest

from isolation_monitor.telemetry.detectors.code_sites import SITES_LIMIT, sites_of, word_of

SOURCE = """
import os
HISTORY = []

class Agent:
    def __init__(self):
        self.history = []

    def say(self, text):
        self.history.append(text)

agent = Agent()

def show():
    return agent.history

def configure(key):
    os.environ["SDK_KEY"] = key

def busy():
    return [HISTORY, HISTORY, HISTORY, HISTORY,
            HISTORY,
            HISTORY,
            HISTORY]
"""


@pytest.fixture
def module() -> ModuleType:
    made = ModuleType("some_shop")
    exec(compile(SOURCE, "some_shop.py", "exec"), made.__dict__)
    return made


@pytest.mark.parametrize(
    ("label", "word"),
    [
        ("shop.agents:agent.history[*]", "history"),
        ("shop:build.<locals>.ask.sdk.api_key", "api_key"),
        ("shop:SLOT['value']", "SLOT"),
        ("shop:notes.default[*]", "notes"),
        ("os.environ:SDK_KEY", "SDK_KEY"),
        ("shop:", ""),
    ],
)
def test_the_word_in_code_is_the_last_name_of_the_way(label: str, word: str) -> None:
    assert word_of(label) == word


def test_writes_come_before_reads(module: ModuleType) -> None:
    assert sites_of("some_shop:agent.history[*]", [module]) == [
        "some_shop.py:7 Agent.__init__",
        "some_shop.py:10 Agent.say",
        "some_shop.py:15 show",
    ]


def test_a_key_of_the_environment_is_found_by_its_name(module: ModuleType) -> None:
    assert sites_of("os.environ:SDK_KEY", [module]) == ["some_shop.py:18 configure"]


def test_few_lines_are_named_and_none_of_what_no_code_names(module: ModuleType) -> None:
    assert len(sites_of("some_shop:HISTORY[*]", [module])) == SITES_LIMIT
    assert sites_of("some_shop:nothing_of_the_kind", [module]) == []
