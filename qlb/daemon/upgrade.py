"""An upgrade as the process that goes sees it: what it gives to the next one, and the moment of the change."""

import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from qlb.admin import AdminServer
from qlb.errors import QlbError
from qlb.handover.protocol import NewProcess, Origin
from qlb.handover.sockets import STATE, Inherited, Named
from qlb.workers.engine import Engine

log = logging.getLogger("qlb")

REPLIES_S: Final = 1.0
"""How long replies to packets that this process has forwarded still go back after another has taken its place."""
_NEXT_START_S: Final = 30.0
"""How long the next process may take until it could forward."""
_NEXT_FORWARDS_S: Final = 2.0
"""How long it may take from its go until it forwards: clients' packets wait meanwhile. Some 40 ms are usual."""
_NEXT_FORWARDS_STARVED_S: Final = 4.0
"""The same on a machine that has no processor for it."""


class Belongings:
    """Everything that outlives this process."""

    def __init__(self, engine: Engine, admin: AdminServer, origin: Origin) -> None:
        """The sockets of the engine and of the admin server, and the memory."""
        self._engine = engine
        self._admin = admin
        self._inherited: Inherited = origin.inherited
        self._memory = Named(STATE, origin.memory.descriptor)

    @property
    def all(self) -> list[Named]:
        """What the next process is given."""
        return [*(Named(name, sock.fileno()) for name, sock in self._sockets()), self._memory]

    @property
    def kept(self) -> list[Named]:
        """What a service manager is to keep: no socket that a unit of its own holds.

        Nor the control socket: its file goes when the daemon ends.
        """
        sockets = [
            Named(name, sock.fileno())
            for name, sock in self._sockets()
            if sock.family != socket.AF_UNIX and not self._inherited.is_borrowed(sock)
        ]
        return [*sockets, self._memory]

    def _sockets(self) -> list[tuple[str, socket.socket]]:
        """Every socket, with its name."""
        of_service = [(slot.number, sock) for slot in self._engine.slots for sock in slot.listeners]
        every = [*of_service, *((0, sock) for sock in self._admin.sockets)]
        return [(self._inherited.name_of(sock, worker), sock) for worker, sock in every]


@asynccontextmanager
async def next_process(
    command: Sequence[str], environ: Mapping[str, str], descriptors: Sequence[Named]
) -> AsyncIterator[NewProcess]:
    """Start the next process and wait until it only waits for its go. Where the block fails, it is ended.

    environ: beside this process's own. Raises OSError, or QlbError, saying why it does not come so far.
    """
    new_process = await NewProcess.start(command, {**os.environ, **environ}, descriptors)
    try:
        await new_process.wait_ready(_NEXT_START_S)
        yield new_process
    except BaseException:
        await new_process.kill()
        raise


def upgrade_warnings(mode: str, sessions: int) -> tuple[str, ...]:
    """Return what an upgrade costs some connections. sessions: that are open now."""
    if not sessions or mode not in ("proxy", "proxy-protocol"):
        return ()
    return (
        f"{sessions} sessions get new source ports, which servers see as a change of the client's address: servers "
        "that do not follow such a change lose these connections (docs/upgrading.md names them)",
    )


async def hand_over(new_process: NewProcess, engine: Engine, admin: AdminServer) -> bool:
    """Stop reading, and let the next process read; or take all back. Returns whether it reads every service socket.

    Raises QlbError, saying why, where it does not forward: it has ended then, and this process forwards as before.
    """
    try:
        await engine.pause()
        await admin.hold()
        return await new_process.go(_NEXT_FORWARDS_S, _NEXT_FORWARDS_STARVED_S)
    except BaseException:
        await new_process.kill()  # before anything is read here again
        with suppress(QlbError):  # workers that have died are replaced as ever
            await engine.resume()
        await admin.serve()
        raise
