"""The handover as the old process sees it: what the new process receives, and the moment at which it takes over."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

from qlb.admin import AdminServer, UpgradeOutcome
from qlb.daemon.desired import Desired
from qlb.daemon.reload import Changes
from qlb.dataplane.planes import PLANES
from qlb.errors import QlbError
from qlb.handover.protocol import NewProcess, Origin
from qlb.handover.sockets import STATE, Inherited, Named
from qlb.handover.systemd import Service
from qlb.routing.counters import SESSIONS
from qlb.routing.sums import total
from qlb.workers.engine import Engine

log = logging.getLogger("qlb")

REPLIES_S: Final = 1.0
"""The time for which the old process still returns replies to packets that it has forwarded."""
_NEXT_START_S: Final = 30.0
"""The time limit until the new process is ready to forward."""
_NEXT_FORWARDS_S: Final = 2.0
"""The time limit from its go until it forwards. Clients' packets wait until then; usually 40 ms."""
_NEXT_FORWARDS_STARVED_S: Final = 4.0
"""The same limit if the new process gets no processor."""


class Daemon(Protocol):
    """The parts of a daemon that a handover concerns."""

    desired: Desired
    engine: Engine | None
    admin: AdminServer
    origin: Origin
    service: Service
    changes: Changes
    plane: str

    def remember(self) -> None:
        """Write what the next process needs, if it has changed."""


class Life(Protocol):
    """The state of a daemon, as far as a handover depends on it and changes it."""

    @property
    def is_serving(self) -> bool:
        """True after the start, unless the daemon ends or hands over."""

    def handover_begins(self) -> None:
        """Note that the new process is being started."""

    def handover_ends(self, *, is_replaced: bool) -> None:
        """Note that the new process has taken over, or that this one continues."""


class Upgrade:
    """The handovers of one daemon, one at a time: idle -> under way -> done, or idle again if it has failed."""

    def __init__(self, daemon: Daemon, life: Life) -> None:
        """daemon: the parts that the new process receives. life: the state of the daemon."""
        self._daemon = daemon
        self._life = life
        self._work: asyncio.Task[UpgradeOutcome] | None = None
        self.all_taken = False
        """True if a new process has taken over and reads every service socket."""

    @property
    def is_under_way(self) -> bool:
        """True from the start of a handover to its end."""
        return self._work is not None and not self._work.done()

    async def request(self) -> UpgradeOutcome:
        """Start the program on disk with the current configuration and hand all sockets over to it.

        If the new process fails, this process continues, and the outcome and the log have the reason.
        """
        if refusal := self._refusal():
            log.error("upgrade refused", extra={"reason": refusal})
            return UpgradeOutcome(False, os.getpid(), (refusal,))
        self._daemon.changes.no_reload = "an upgrade is under way; the new process reads the configuration itself"
        self._life.handover_begins()
        self._work = asyncio.create_task(self._run())
        return await asyncio.shield(self._work)  # a caller that disconnects does not end the handover

    async def stop(self) -> None:
        """Cancel a handover, which ends the new process."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    def _refusal(self) -> str:
        daemon = self._daemon
        if self.is_under_way:
            return "another upgrade is under way"
        if not self._life.is_serving or daemon.engine is None or not daemon.engine.forwards:
            return "this process is starting or ending"
        if os.getpid() == 1:
            return "this is process 1 of a container, which ends with it: replace the container"
        if not daemon.origin.command:
            return "the demo servers end with this process: restart it"
        if PLANES[daemon.plane].in_kernel and not daemon.desired.config.forwarding.keep_attached:
            return f"plane {daemon.plane} forwards without a process only with forwarding.keep_attached: true"
        return ""

    async def _run(self) -> UpgradeOutcome:
        outcome = None
        try:
            outcome = await self._hand_over()
        except (OSError, QlbError) as error:
            log.error("upgrade failed; this process continues", extra={"reason": str(error)})
            return UpgradeOutcome(False, os.getpid(), (str(error),))
        finally:
            if outcome is None:
                self._daemon.changes.no_reload = ""
            self._life.handover_ends(is_replaced=outcome is not None)
        return outcome

    async def _hand_over(self) -> UpgradeOutcome:
        daemon = self._daemon
        assert daemon.engine is not None, "_refusal() has checked it"
        log.info("upgrading")
        mode, sessions = daemon.desired.config.forwarding.mode, total(daemon.engine.counters, SESSIONS)
        belongings = Belongings(daemon.engine, daemon.admin, daemon.origin)
        async with (
            next_process(daemon.origin.command, daemon.service.environ, belongings.all) as new_process,
            daemon.changes.lock,
        ):
            if daemon.changes.pending:
                await daemon.changes.make_locked()
            daemon.remember()
            self.all_taken = await hand_over(new_process, daemon.engine, daemon.admin)
            daemon.changes.no_command = "another process has taken over: repeat the command"
        daemon.origin.memory.close()
        daemon.admin.give_away()
        daemon.service.set_main_process(new_process.pid)
        new_process.release()
        log.info("another process has taken over", extra={"pid": new_process.pid})
        return UpgradeOutcome(True, new_process.pid, warnings=upgrade_warnings(mode, sessions))


class Belongings:
    """The descriptors that outlive this process: the sockets of the engine and of the admin server, and the memory."""

    def __init__(self, engine: Engine, admin: AdminServer, origin: Origin) -> None:
        """engine, admin: the owners of the sockets. origin: the owner of the memory."""
        self._engine = engine
        self._admin = admin
        self._inherited: Inherited = origin.inherited
        self._memory = Named(STATE, origin.memory.descriptor)

    @property
    def all(self) -> list[Named]:
        """The descriptors for the new process."""
        return [*(Named(name, sock.fileno()) for name, sock in self._sockets()), self._memory]

    @property
    def stored(self) -> list[Named]:
        """The descriptors for the service manager's store.

        They do not include sockets of a .socket unit, which the manager has anyway, nor the control socket, whose file
        is removed when the daemon ends.
        """
        sockets = [
            Named(name, sock.fileno())
            for name, sock in self._sockets()
            if sock.family != socket.AF_UNIX and not self._inherited.is_borrowed(sock)
        ]
        return [*sockets, self._memory]

    def store(self, service: Service) -> None:
        """Send `stored` to the service manager, if there is one, and have it close everything else in the store."""
        stored = self.stored
        service.remove_stored(self._inherited.stored - {named.name for named in stored})
        service.store(stored)

    def _sockets(self) -> list[tuple[str, socket.socket]]:
        of_service = [(slot.number, sock) for slot in self._engine.slots for sock in slot.listeners]
        every = [*of_service, *((0, sock) for sock in self._admin.sockets)]
        return [(self._inherited.name_of(sock, worker), sock) for worker, sock in every]


@asynccontextmanager
async def next_process(
    command: Sequence[str], environ: Mapping[str, str], descriptors: Sequence[Named]
) -> AsyncIterator[NewProcess]:
    """Start the new process and wait until it is ready for its go. If the block fails, the new process is killed.

    environ: added to this process's environment. Raises OSError or QlbError, with the reason, if it does not get ready.
    """
    new_process = await NewProcess.start(command, {**os.environ, **environ}, descriptors)
    try:
        await new_process.wait_ready(_NEXT_START_S)
        yield new_process
    except BaseException:
        await new_process.kill()
        raise


def upgrade_warnings(mode: str, sessions: int) -> tuple[str, ...]:
    """Return the effects of an upgrade on connections. sessions: the number of open ones."""
    if not sessions or mode not in ("proxy", "proxy-protocol"):
        return ()
    return (
        f"{sessions} sessions get new source ports, which servers see as a change of the client's address: servers "
        "that do not follow such a change lose these connections (docs/upgrading.md names them)",
    )


async def hand_over(new_process: NewProcess, engine: Engine, admin: AdminServer) -> bool:
    """Pause reading and let the new process read, or resume. Returns whether it reads every service socket.

    Raises QlbError, with the reason, if the new process does not forward: it is then killed, and this one has resumed.
    """
    try:
        await engine.pause()
        await admin.pause()
        return await new_process.go(_NEXT_FORWARDS_S, _NEXT_FORWARDS_STARVED_S)
    except BaseException:
        await new_process.kill()  # before this process reads again
        with suppress(QlbError):  # a worker that has died is replaced as usual
            await engine.resume()
        await admin.serve()
        raise
