"""A caller of the agent with the unmodified package moq-rs: one session, its own track and the agent's.

It speaks in real time, one group for each prompt, and reads the agent's track. It does not depend on the balancer.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import moq

from examples.moq.agent import TRACK
from examples.moq.wire import MAX_LATENCY_MS
from examples.voice_agent.frames import FRAME_S, Arrivals, Frame, FrameReader

BROADCAST: Final = "caller"


class Call:
    """One call. Use ``calling`` to make one.

    agent: name of the agent that answered. sent: frames. heard: statistics of the agent's track. answers: its samples,
    by group.
    """

    def __init__(self, agent: str, voice: moq.TrackProducer, session: moq.Session) -> None:
        """voice: the caller's track."""
        self.agent = agent
        self.sent = 0
        self.heard = Arrivals()
        self.answers: list[list[bytes]] = []
        self._voice = voice
        self._session = session
        self._prompts = 0
        self._progress = asyncio.Condition()

    @property
    def connections(self) -> int:
        """Number of connections so far: 1 if none was lost."""
        return self._session.epoch()

    async def prompt(self, samples: Sequence[bytes], *, interval_s: float = FRAME_S) -> None:
        """Send a prompt: one frame per interval, all in one group."""
        group = self._voice.append_group()
        due_s = time.monotonic()
        for piece in samples:
            group.write_frame(Frame(self.sent, self._prompts, time.time() * 1000, piece).encode())
            self.sent += 1
            due_s += interval_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        group.finish()
        self._prompts += 1

    async def answered(self, count: int) -> None:
        """Wait until this number of groups of the agent's track has ended."""
        async with self._progress:
            await self._progress.wait_for(lambda: len(self.answers) >= count)

    async def follow(self, track: moq.TrackConsumer) -> None:
        """Read the agent's track until cancelled."""
        async for group in track:
            answer = []
            async for arrived in group:
                [frame] = FrameReader().feed(arrived.payload)
                self.heard.add(frame, time.monotonic())
                answer.append(frame.samples)
            async with self._progress:
                self.answers.append(answer)
                self._progress.notify_all()


@asynccontextmanager
async def calling(url: str, sha256: bytes) -> AsyncIterator[Call]:
    """Call an agent, and hang up at the end of the block. sha256: of the trusted certificate."""
    mine, theirs = moq.OriginProducer(), moq.OriginProducer()
    async with moq.Client(url, tls_fingerprints=[sha256.hex()], publish=mine, subscribe=theirs) as client:
        broadcast = mine.create_broadcast(BROADCAST)
        voice = broadcast.publish_track(TRACK)
        broadcast.announce()
        agent = (await anext(client.announced())).prefix
        wanted = moq.Subscription(max_age_us=MAX_LATENCY_MS * 1000)
        track = await (await client.request_broadcast(agent)).subscribe_track(TRACK, wanted)
        await voice.used()  # until the agent has subscribed
        assert client.session is not None, "the client is connected"
        call = Call(agent, voice, client.session)
        following = asyncio.create_task(call.follow(track))
        try:
            yield call
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
