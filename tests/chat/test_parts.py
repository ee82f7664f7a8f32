"""Single parts of the chat service: tokens, the secret's file, tools, the planner, settings, the switchboard."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chat.agents import AgentFactory
from chat.auth import NotSignedInError, Tokens, load_secret, token_of
from chat.faults import LOST_EVENT, SHARED_AGENT, Switchboard
from chat.settings import Settings, SettingsError
from chat.store import Line, User
from chat.tools import ToolError, calculator

ANN = User("u_ann", "ann")


def test_a_token_names_its_user_until_it_ends() -> None:
    assert Tokens("key", 60).user_of(Tokens("key", 60).issue(ANN)) == ANN
    with pytest.raises(NotSignedInError, match="ended"):
        Tokens("key", 60).user_of(Tokens("key", -60).issue(ANN))


def test_a_token_of_another_key_is_refused() -> None:
    with pytest.raises(NotSignedInError, match="not signed here"):
        Tokens("key", 60).user_of(Tokens("another", 60).issue(ANN))


def test_a_token_in_the_address_counts_for_websockets_only() -> None:
    """In an address of HTTP it would end up in every log on the way."""
    assert token_of({"type": "websocket", "headers": [], "query_string": b"token=a.b"}) == "a.b"
    assert token_of({"type": "http", "headers": [], "query_string": b"token=a.b"}) is None
    assert token_of({"type": "http", "headers": [(b"authorization", b"bearer a.b")]}) == "a.b"


def test_workers_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as workers:
        secrets = set(workers.map(lambda _: load_secret(None, tmp_path / "new" / "secret"), range(32)))

    assert len(secrets) == 1
    assert (tmp_path / "new" / "secret").stat().st_mode & 0o077 == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["secret"]
    assert load_secret("set", tmp_path / "other") == "set"


CALCULATED = {"2*(3+4)": "14", "-7 // 2": "-4", "1/4": "0.25", "1234567 + 1": "1234568"}
REFUSED = ("10**2", "1/0", "__import__('os')", "(" * 300, "9" * 150 + "*9.5e300", "", "True+1")


@pytest.mark.parametrize(("expression", "value"), [*CALCULATED.items(), *((expression, None) for expression in REFUSED)])
def test_the_calculator_calculates_and_nothing_else(expression: str, value: str | None) -> None:
    if value is not None:
        assert calculator(expression) == value
        return
    with pytest.raises(ToolError):
        calculator(expression)


QUESTIONS = {
    "what is 2 * (3 + 4)?": "calculator",
    "1/0": "calculator",
    "what time is it": "clock",
    "what did I say before?": "history",
    "what is my note?": "note",
    "hello": "note",
    "room 5": "note",
}


@pytest.mark.parametrize(("question", "tool"), QUESTIONS.items())
async def test_the_planner_chooses_one_tool(question: str, tool: str) -> None:
    agent = await AgentFactory(0).create(ANN, "a note", [Line("user", "hi"), Line("agent", "ho")])

    step = agent.plan(question)
    answer = await agent.answer(step, agent.use(step))

    assert step.tool == tool
    assert answer.user_id == ANN.id
    assert "ho" not in answer.text.split(), "only the user's own words are quoted"


async def test_a_sound_factory_makes_a_new_agent_each_time() -> None:
    factory = AgentFactory(0)
    first, second = await asyncio.gather(factory.create(ANN, "", []), factory.create(ANN, "", []))

    assert first is not second


@pytest.mark.parametrize(
    ("name", "value"), [("CHAT_POOL_SIZE", "many"), ("CHAT_POOL_SIZE", "0"), ("CHAT_FAULTS", "yes"), ("CHAT_WORD_PAUSE_S", "-1")]
)
def test_a_wrong_setting_fails_at_start_and_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}='{value}'"):
        Settings.from_env({name: value})


def test_a_fault_switched_on_by_one_worker_is_on_in_another(tmp_path: Path) -> None:
    one, other = (Switchboard(tmp_path / "faults.json", tmp_path / "log") for _ in range(2))
    assert not other.is_on(SHARED_AGENT)

    one.switch_on(SHARED_AGENT)
    assert other.is_on(SHARED_AGENT)
    assert not other.is_on(LOST_EVENT)

    other.heal()
    assert not one.is_on(SHARED_AGENT)


def test_the_first_harm_of_each_switch_on_is_logged_once_by_all_workers(tmp_path: Path) -> None:
    boards = [Switchboard(tmp_path / "faults.json", tmp_path / "log") for _ in range(2)]
    for _ in range(2):
        boards[0].switch_on(LOST_EVENT)
        for board in boards * 3:
            board.harmed(LOST_EVENT)
            board.harmed(SHARED_AGENT)
        boards[1].heal()
        boards[0].harmed(LOST_EVENT)

    assert [json.loads(line)["fault"] for line in (tmp_path / "log").read_text().splitlines()] == [LOST_EVENT, LOST_EVENT]
