"""The listeners of the admin server: a read-only one on TCP, and the control socket, which also accepts commands."""

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from qlb.addresses import Endpoint
from qlb.admin.commands import Commands, Control
from qlb.admin.control_socket import ControlSocket, open_control_socket
from qlb.admin.http import HttpServer, Limits
from qlb.admin.pages import Pages
from qlb.admin.routes import Routes
from qlb.dataplane.sockets import bind_freely, bound_endpoint
from qlb.errors import QlbError
from qlb.handover.processes import tcp_holder
from qlb.handover.sockets import Inherited
from qlb.local_addresses import address_of
from qlb.observe.figures import Reading

log = logging.getLogger("qlb.admin")

_BACKLOG: Final = 1024
"""Connections that wait to be accepted. All are accepted at once, so only a flood makes a long queue."""
_STOP_TIMEOUT_S: Final = 1.0
"""The time for unfinished answers when the server stops."""


class AdminServer:
    """The HTTP server of one daemon.

    States: new → open() → bound → serve() → serving → pause() → bound, or stop() → new.
    """

    def __init__(
        self,
        read: Callable[[], Reading],
        ready: Callable[[], bool],
        control: Control,
        *,
        limits: Limits | None = None,
        configuration: Path | None = None,
    ) -> None:
        """read: takes a reading. ready: whether this node should get traffic. limits: of each listener.

        configuration: the daemon's file, for commands that are meant for the daemon of one file.
        """
        self._configuration = configuration
        self._pages = Pages(read, ready)
        self._commands = Commands(control, read)
        self._limits = limits or Limits()
        self._listeners: list[tuple[asyncio.AbstractServer, HttpServer]] = []
        self._paused: list[tuple[asyncio.AbstractServer, HttpServer]] = []
        """Listeners that are closed, but may have unfinished answers."""
        self._tcp: socket.socket | None = None
        self._control_socket: ControlSocket | None = None
        self.address: Endpoint | None = None
        """The TCP address with the actual port; None if it does not listen on TCP."""

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """The listening sockets."""
        control = self._control_socket
        return [sock for sock in (self._tcp, control.sock if control else None) if sock is not None]

    @property
    def control_path(self) -> Path | None:
        """The path of the open control socket; None if there is none."""
        return None if self._control_socket is None else self._control_socket.path

    async def start(self, tcp: tuple[str, int] | None, unix_socket: Path | None) -> None:
        """Open and serve. Raises the errors of open()."""
        await self.open(tcp, unix_socket)
        await self.serve()

    async def open(
        self,
        tcp: tuple[str, int] | None,
        unix_socket: Path | None,
        inherited: Inherited | None = None,
        *,
        freebind: bool = False,
        needs_socket: bool = True,
    ) -> None:
        """Inherit or bind the sockets. Clients that connect wait until serve().

        tcp: an IP literal and a port, 0 = any. unix_socket: path of the control socket. inherited: the sockets that
        this process has inherited. freebind: on Linux, also bind an address that no interface has yet. needs_socket:
        if false, a control socket that cannot be opened is only logged.
        Raises QlbError if a socket cannot be opened. Then none is open.
        """
        inherited = inherited or Inherited()
        try:
            if tcp is not None:
                self._tcp = inherited.take_tcp(Endpoint(*tcp)) or _open_tcp(Endpoint(*tcp), freebind)
                self.address = bound_endpoint(self._tcp)
            if unix_socket is not None:
                self._control_socket = await _take_or_open(unix_socket, inherited, needs_socket)
        except BaseException:
            await self.stop()
            raise

    async def serve(self) -> None:
        """Accept and answer connections from now on."""
        loop = asyncio.get_running_loop()
        if self._tcp is not None and self.address is not None:
            local = ipaddress.ip_address(self.address.host.partition("%")[0]).is_loopback
            http = HttpServer(Routes(self._pages, local_names_only=local).answer, self._limits)
            self._listeners.append((await loop.create_server(http, sock=self._tcp.dup(), backlog=_BACKLOG), http))
        if self._control_socket is not None:
            http = HttpServer(
                Routes(self._pages, self._commands, configuration=self._configuration).answer, self._limits
            )
            self._listeners.append(
                (await loop.create_unix_server(http, sock=self._control_socket.sock.dup(), backlog=_BACKLOG), http)
            )

    async def pause(self) -> None:
        """Accept no more connections, so that another process, or serve(), can. Unfinished answers go on."""
        for listener, http in self._listeners:
            listener.close()
            http.pre_shutdown()
        self._paused, self._listeners = [*self._paused, *self._listeners], []

    def give_away(self) -> None:
        """Leave the file of the control socket to the process that serves it now."""
        if self._control_socket is not None:
            self._control_socket = self._control_socket._replace(borrowed=True)

    async def stop(self) -> None:
        """Stop listening, finish the answers for a short time, and close every connection."""
        self.address = None
        await self.pause()
        listeners, self._paused = self._paused, []
        await asyncio.gather(*(http.shutdown(_STOP_TIMEOUT_S) for _, http in listeners))
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await asyncio.gather(*(listener.wait_closed() for listener, _ in listeners))
        if self._control_socket is not None:
            self._control_socket.close()
            self._control_socket = None
        if self._tcp is not None:
            self._tcp.close()
            self._tcp = None


def _open_tcp(endpoint: Endpoint, freebind: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if freebind:
            bind_freely(sock)
        sock.setblocking(False)
        sock.bind(address_of(endpoint))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason += f", by {tcp_holder(endpoint)}"
        raise QlbError(f"the admin server cannot listen on {endpoint} (admin.listen): {reason}") from error
    return sock


async def _take_or_open(path: Path, inherited: Inherited, is_needed: bool) -> ControlSocket | None:
    sock = inherited.take_unix(path)
    if sock is None:
        try:
            return await open_control_socket(path)
        except QlbError as error:
            if is_needed:
                raise
            log.warning("no control socket", extra={"reason": str(error)})
            return None
    return ControlSocket.adopt(sock, path, borrowed=inherited.is_borrowed(sock))
