"""Tests of the voice agent without a balancer: the requests that it answers and rejects."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from examples.voice_agent import agent
from examples.voice_agent.agent import PATH, Mouth, Tickets, configuration, serve_agent
from examples.voice_agent.frames import Frame
from examples.voice_agent.speech import say_name
from lab.nat import Address
from lab.voice.client import calling
from qlb.cid import CidGenerator, CidParams
from qlb.demo.client import connect
from qlb.demo.http3 import make_certificate

LIMIT_S: Final = 90.0
PARAMS: Final = CidParams(config_id=1, server_id_length=4, nonce_length=12, key=bytes(16))
NAME: Final = "agent-b"
FAST_S: Final = 0.001


@asynccontextmanager
async def one_agent(folder: Path) -> AsyncIterator[Address]:
    """Run one agent on a free port."""
    make_certificate().write(folder)
    generator = CidGenerator(PARAMS, b"bbbb")
    async with asyncio.timeout(LIMIT_S):
        server = await serve_agent(NAME, "127.0.0.1", 0, quic=configuration(folder), generator=generator)
        try:
            yield server.address
        finally:
            server.close()


async def test_it_greets_and_echoes_prompts(tmp_path: Path) -> None:
    """A caller gets a greeting as long as the name, then its prompt followed by the name; every frame once."""
    async with one_agent(tmp_path) as address, calling(address) as call:
        await call.answered(1)
        assert call.heard.received == len(say_name(NAME))
        await call.prompt(7, interval_s=FAST_S)
        await call.answered(2)
        assert call.heard.received == 7 + 2 * len(say_name(NAME))
        assert (call.agent, call.by_agent["agent"]) == (NAME, NAME)
        assert (call.heard.missing, call.by_agent["missing"], call.lost) == (0, 0, None)


async def test_a_plain_get_is_answered_with_the_name(tmp_path: Path) -> None:
    """As demo backends do, so that ``qlb demo get`` works."""
    async with one_agent(tmp_path) as address, connect(*address) as client:
        answer = await client.get("/")
    assert (answer.status, answer.backend, answer.body) == (200, NAME, b"agent-b\n")


async def test_there_is_one_session_at_one_path(tmp_path: Path) -> None:
    """Another path is rejected, and so is a second session on one connection."""
    async with one_agent(tmp_path) as address:
        async with calling(address, path="/elsewhere") as call:
            await call.ended()
        assert call.lost == "the agent has refused"
        async with calling(address) as call:
            await call.answered(1)
            call.ask(address, PATH)
            await call.ended()
        assert call.lost == "the agent has refused"


async def test_a_frame_that_is_too_long_ends_the_call(tmp_path: Path) -> None:
    """A frame that is too long ends the call, with the reason."""
    async with one_agent(tmp_path) as address, calling(address) as call:
        await call.answered(1)
        call.send_prompt(Frame(0, 0, 0.0, bytes(641)).encode())
        await call.ended()
        assert call.lost is not None
        assert "640 octets" in call.lost


async def test_invalid_control_messages_are_ignored(tmp_path: Path) -> None:
    """Garbage, deep nesting, other types and oversized messages do not end the call."""
    async with one_agent(tmp_path) as address, calling(address) as call:
        await call.answered(1)
        for data in (b"", b"\xff", b"[" * 250, b"7", b'{"pong": 1}', b'{"ping": "' + b"x" * 300 + b'"}'):
            call.send_control(data)
        pings = len(call.round_trips_s)
        await call.until(lambda call: len(call.round_trips_s) > pings + 2)
        assert call.lost is None


async def test_the_echo_of_a_prompt_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All frames of a long prompt are counted, but only the first ones are echoed."""
    monkeypatch.setattr(agent, "MAX_PROMPT_FRAMES", 10)
    async with one_agent(tmp_path) as address, calling(address) as call:
        await call.answered(1)
        await call.prompt(25, interval_s=FAST_S)
        await call.answered(2)
        assert call.heard.received == 10 + 2 * len(say_name(NAME))


async def test_only_the_newest_answers_are_queued() -> None:
    """At most four answers are queued, the oldest are dropped, and none remains after the end."""
    mouth = Mouth(_Sink(), _Sink(), 0)  # type: ignore[arg-type]
    for number in range(10):
        mouth.say([bytes([number])])
    assert [samples[0][0] for samples in mouth._waiting] == [6, 7, 8, 9]
    mouth.close()
    assert not mouth._waiting


def test_tickets_are_used_once_and_the_oldest_are_removed() -> None:
    """A ticket that is used a second time is unknown, and so is the oldest above the limit."""
    tickets = Tickets()
    assert tickets.pop(b"never seen") is None
    for number in range(agent.MAX_TICKETS + 1):
        tickets.add(_Ticket(number.to_bytes(4)))  # type: ignore[arg-type]
    assert tickets.pop(bytes(4)) is None
    assert tickets.pop((1).to_bytes(4)) is not None
    assert tickets.pop((1).to_bytes(4)) is None


class _Sink:
    """An object whose every method accepts any arguments."""

    def __getattr__(self, _: str) -> object:
        return lambda *_, **__: 0


class _Ticket:
    def __init__(self, ticket: bytes) -> None:
        self.ticket = ticket
