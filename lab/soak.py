"""A soak test of everything at once: ``python -m lab.soak SECONDS`` prints its observations.

Long calls last from the first second to the last, while short calls begin and end. In each cycle every client's address
changes, the configuration is reloaded, a worker is killed, and garbage arrives. test_soak.py runs it for seconds,
``make soak`` for minutes.
"""

import asyncio
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lab.clients import Calls, in_progress
from lab.daemon import cid_config
from lab.garbage import every_config, every_first_octet, every_id_length, every_truncation
from lab.scrape import Metrics
from lab.stage import NEXT_PARAMS, Stage, stage
from lab.udp_servers import open_socket

LONG_CALLS: Final = 10
SHORT_CALLS: Final = 4
WORKERS: Final = 2
GARBAGE_PER_CYCLE: Final = 200
GARBAGE_SENDERS: Final = 20
WARM_UP_CYCLES: Final = 2
SECTIONS: Final[dict[str, Any]] = {
    "forwarding": {"workers": str(WORKERS), "max_sessions": "200", "session_timeout": "2s"},
    "fallback": {"flow_table_size": "1000", "flow_timeout": "2s"},
}
"""Limits that the first cycles reach. After them, memory that still grows is a leak."""


@dataclass
class Seen:
    """The observations of a soak. lost: reasons of lost calls. memory_kib: of the whole daemon, after each cycle."""

    cycles: int = 0
    calls: int = 0
    rebinds: int = 0
    reloads: int = 0
    kills: int = 0
    garbage: int = 0
    lost: list[str] = field(default_factory=list)
    memory_kib: list[int] = field(default_factory=list)
    metrics: Metrics | None = None

    @property
    def growth_kib(self) -> int:
        """Return the memory at the end minus the maximum of the warm-up cycles."""
        return self.memory_kib[-1] - max(self.memory_kib[:WARM_UP_CYCLES])

    def __str__(self) -> str:
        """Summarize the observations in two lines."""
        return (
            f"{self.cycles} cycles: {self.calls} calls, {self.rebinds} address changes, {self.reloads} reloads, "
            f"{self.kills} workers killed, {self.garbage} garbage datagrams: {len(self.lost)} calls lost\n"
            f"memory after each cycle, MiB: {' '.join(str(kib >> 10) for kib in self.memory_kib)}"
        )


async def soak(folder: Path, seconds: float, *, limit_s: float) -> Seen:
    """Run the soak for some seconds. limit_s: the time after which it fails."""
    seen, end_s = Seen(), time.monotonic() + seconds
    garbage = itertools.cycle(_garbage(random.Random(2026)))
    async with stage(folder, limit_s=limit_s, **SECTIONS) as scene:
        async with in_progress(scene.addresses(LONG_CALLS)) as calls:
            seen.calls += LONG_CALLS
            while time.monotonic() < end_s or seen.cycles <= WARM_UP_CYCLES:
                await _cycle(scene, calls, seen, list(itertools.islice(garbage, GARBAGE_PER_CYCLE)))
        seen.lost += calls.lost
        seen.metrics = await scene.daemon.settled()
        assert await _pids_of_dead(scene) == set(), "a worker is dead"
    return seen


async def _cycle(scene: Stage, long_calls: Calls, seen: Seen, garbage: list[bytes]) -> None:
    async with in_progress(scene.addresses(SHORT_CALLS)) as short_calls:
        flood = asyncio.create_task(_send(garbage, scene))
        for config in (_other_config(scene), scene.config(**SECTIONS)):
            scene.nat.rebind_all()
            await scene.daemon.reload_by_signal(config)
            seen.reloads += 1
            seen.rebinds += len(scene.nat.ports)
        await scene.daemon.kill_worker(seen.cycles % WORKERS)
        scene.nat.rebind_all()
        seen.rebinds += len(scene.nat.ports)
        await asyncio.gather(flood, long_calls.until_more(), short_calls.until_more())
    seen.kills += 1
    seen.garbage += len(garbage)
    seen.calls += SHORT_CALLS
    seen.lost += short_calls.lost
    for port in scene.nat.ports[LONG_CALLS:]:
        port.close()
    del scene.nat.ports[LONG_CALLS:]
    seen.memory_kib.append(await _memory_kib(scene))
    seen.cycles += 1


def _other_config(scene: Stage) -> dict[str, Any]:
    config = scene.config(**SECTIONS)
    return {**config, "cid_configs": [*config["cid_configs"], cid_config(NEXT_PARAMS)]}


def _garbage(chance: random.Random) -> Iterable[bytes]:
    kinds = (every_first_octet, every_id_length, every_truncation, every_config)
    found = [datagram for kind in kinds for datagram in kind(chance)]
    chance.shuffle(found)
    return found


async def _send(garbage: list[bytes], scene: Stage) -> None:
    with ExitStack() as stack:
        senders = [stack.enter_context(open_socket(("127.0.0.1", 0))) for _ in range(GARBAGE_SENDERS)]
        for datagram, sender in zip(garbage, itertools.cycle(senders), strict=False):
            sender.sendto(datagram, scene.service)
            await asyncio.sleep(0)


async def _pids_of_dead(scene: Stage) -> set[int]:
    workers = (await scene.daemon.status())["workers"]
    return {worker["pid"] for worker in workers if not worker["alive"]}


async def _memory_kib(scene: Stage) -> int:
    """Return the resident memory of the supervisor and its workers. Shared pages count once."""
    pids = [scene.daemon.pid, *(worker["pid"] for worker in (await scene.daemon.status())["workers"])]
    return sum(_proportional_kib(pid) for pid in pids)


def _proportional_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> int:
    """Run the soak for the seconds on the command line."""
    seconds = float(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        seen = asyncio.run(soak(Path(folder), seconds, limit_s=2 * seconds + 120))
    sys.stdout.write(f"{seen}\n")
    return 1 if seen.lost else 0


if __name__ == "__main__":
    sys.exit(main())
