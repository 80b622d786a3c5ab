"""One simulated caller.

It listens to the greeting, hangs up, and calls again. Then it speaks, listens to the answer, thinks, and speaks
again. If it loses a call, it calls again at once. A call is lost if its connection ends, or if the agent sends nothing
for the plan's ``patience_s``, although the caller sends a ping every ``PING_S``. Times are seconds since the run began.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final, NamedTuple

from aioquic.tls import SessionTicket

from benchmarks.voice.plan import STILL, Plan
from lab.nat import NatPort
from lab.voice.client import VoiceCall, calling

FINISH_S: Final = 15.0
PING_S: Final = 0.4
SILENCE_S: Final = 1.5
"""Silences longer than this are recorded. A killed balancer alone causes shorter ones."""
PROMPT_FRAMES: Final = (50, 150)
_KEPT: Final = 10_000


WITHOUT_TICKET: Final = "1-RTT"
TICKET_KNOWN: Final = "0-RTT, the agent knew the ticket"
TICKET_UNKNOWN: Final = "0-RTT refused, another agent's ticket"
WAYS: Final = (WITHOUT_TICKET, TICKET_KNOWN, TICKET_UNKNOWN)


class Setup(NamedTuple):
    """Set-up of a connection, until its first audio.

    round_trips: counted on the wire. way: one of WAYS. after_loss: the connection replaced a lost one.
    """

    at_s: float
    took_s: float
    round_trips: int
    way: str
    after_loss: bool


class Ending(NamedTuple):
    """End of a connection. lost: the reason, "" if the caller hung up. sent, heard: frames.

    up, down: missing frames. up: sent by the caller and not confirmed by the agent. down: reported as sent by the
    agent and not received.
    """

    at_s: float
    lost: str
    was_set_up: bool
    sent: int
    heard: int
    up: int
    down: int


class Span(NamedTuple):
    """A period."""

    at_s: float
    length_s: float

    @property
    def end_s(self) -> float:
        """End of the period."""
        return self.at_s + self.length_s


@dataclass
class Told:
    """Record of one caller.

    gaps: waits for audio that was due. silences: periods without any packet from the agent.
    """

    setups: list[Setup] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    gaps: list[Span] = field(default_factory=list)
    silences: list[Span] = field(default_factory=list)
    changes: int = 0


class Caller:
    """A caller that uses one port of a NAT, until the plan ends."""

    def __init__(self, port: NatPort, plan: Plan, random: Random, began_s: float) -> None:
        """Set up the caller. random: for its choices. began_s: start of the run by the loop's clock."""
        self._loop = asyncio.get_running_loop()
        self._port = port
        self._plan = plan
        self._random = random
        self._began_s = began_s
        self._tickets: list[SessionTicket] = []
        self._heard_s = self._loop.time()
        self._has_hung_up = False
        self._lost_since_s: float | None = None
        self._is_after_loss = False
        self.told = Told()

    async def run(self) -> Told:
        """Make calls until the plan ends; return the record."""
        self._heard_s = self._loop.time()
        while not self._is_over():
            await self._call()
        if self._lost_since_s is not None:
            self._gap(self._lost_since_s)
            self._note(self.told.silences, self._heard_s, self._loop.time())
        self.told.changes = self._port.changes
        return self.told

    async def _call(self) -> None:
        ticket = self._tickets.pop() if self._tickets else None
        async with calling(
            self._port.address,
            ticket=ticket,
            keep_ticket=self._keep_ticket,
            ping_s=PING_S,
            on_heard=self._on_heard,
        ) as call:
            watching = asyncio.create_task(self._watch(call))
            try:
                await self._converse(call, with_ticket=ticket is not None)
                if call.lost is None:
                    await self._finish(call)
            finally:
                watching.cancel()
        self._end(call)

    async def _converse(self, call: VoiceCall, *, with_ticket: bool) -> None:
        await call.until(lambda call: call.first_frame_s is not None)
        if call.first_frame_s is not None:
            self._set_up(call, call.first_frame_s, with_ticket=with_ticket)
        await self._listen(call, utterances=1)
        while call.lost is None and not self._is_over() and not self._hangs_up():
            await call.prompt(self._random.randint(*PROMPT_FRAMES))
            spoken_s, before = self._loop.time(), call.heard.received
            await call.until(partial(_has_heard, before))
            if call.lost is None:
                self._gap(spoken_s)
            await self._listen(call, utterances=call.prompts + 1)

    async def _listen(self, call: VoiceCall, *, utterances: int) -> None:
        """Listen to the agent until it has finished, then think, unless the call is lost."""
        await call.until(lambda call: call.utterances >= utterances)
        if call.heard.longest_gap_s:
            self._gap(self._loop.time() - call.heard.longest_gap_s)
            call.heard.longest_gap_s = 0.0
        rest_s = call.heard.buffered_s(self._loop.time()) + self._plan.thinking_s * self._random.uniform(0.6, 1.4)
        with suppress(TimeoutError):
            async with asyncio.timeout(rest_s):
                await call.ended()

    async def _finish(self, call: VoiceCall) -> None:
        """Wait until each side has received all frames of the other."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FINISH_S):
                await call.answered(call.prompts + 1)

    async def _watch(self, call: VoiceCall) -> None:
        """Give the call up after ``patience_s`` of silence."""
        while (left_s := max(self._heard_s, call.began_s) + self._plan.patience_s - self._loop.time()) > 0:
            await asyncio.sleep(left_s)
        await call.give_up(f"nothing received for {self._plan.patience_s:g} s")

    def _on_heard(self, now_s: float) -> None:
        if now_s - self._heard_s > SILENCE_S:
            self._note(self.told.silences, self._heard_s, now_s)
        self._heard_s = now_s

    def _set_up(self, call: VoiceCall, first_frame_s: float, *, with_ticket: bool) -> None:
        before = [number for when_s, number in self._port.rounds if when_s < call.began_s]
        until_then = [number for when_s, number in self._port.rounds if when_s <= first_frame_s]
        round_trips = max(until_then, default=0) - max(before, default=0)
        at_s = call.began_s - self._began_s
        took_s = first_frame_s - call.began_s
        way = TICKET_KNOWN if call.early else TICKET_UNKNOWN if with_ticket else WITHOUT_TICKET
        self.told.setups.append(Setup(at_s, took_s, round_trips, way, self._is_after_loss))
        self._is_after_loss = False
        if self._lost_since_s is not None:
            self._gap(self._lost_since_s)
            self._lost_since_s = None

    def _end(self, call: VoiceCall) -> None:
        lost, was_set_up = call.lost or "", call.first_frame_s is not None
        if lost and self._lost_since_s is None:
            self._lost_since_s = self._heard_s
        self._is_after_loss |= bool(lost) and was_set_up
        up = call.sent - call.by_agent.get("received", 0)
        down = call.by_agent.get("sent", 0) - call.heard.received
        now_s = self._loop.time() - self._began_s
        ending = Ending(now_s, lost, was_set_up, call.sent, call.heard.received, max(0, up), max(0, down))
        self.told.endings.append(ending)

    def _keep_ticket(self, ticket: SessionTicket) -> None:
        self._tickets = [ticket]

    def _gap(self, since_s: float) -> None:
        self._note(self.told.gaps, since_s, self._loop.time())

    def _note(self, spans: list[Span], since_s: float, until_s: float) -> None:
        if len(spans) < _KEPT:
            spans.append(Span(since_s - self._began_s, until_s - since_s))

    def _hangs_up(self) -> bool:
        """Return True once, while addresses stay. The next call lasts until the end and begins with a ticket."""
        hangs_up = not self._has_hung_up and self._plan.phase(self._loop.time() - self._began_s) == STILL
        self._has_hung_up = True
        return hangs_up

    def _is_over(self) -> bool:
        return self._loop.time() - self._began_s >= self._plan.end_s


def _has_heard(before: int, call: VoiceCall) -> bool:
    return call.heard.received > before
