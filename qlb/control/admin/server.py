"""The admin server's listeners: a read-only one on TCP, and the control socket, which can also be told things."""

import asyncio
import ipaddress
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from qlb.control.admin.commands import Commands, Control
from qlb.control.admin.control_socket import ControlSocket, open_control_socket
from qlb.control.admin.http import HttpServer, Limits
from qlb.control.admin.pages import Pages
from qlb.control.admin.routes import Routes
from qlb.errors import QlbError
from qlb.observe.reading import Reading
from qlb.routing.backends import Endpoint

_STOP_TIMEOUT_S: Final = 1.0
"""How long answers that are under way may take when the server stops."""


class AdminServer:
    """HTTP for one daemon."""

    def __init__(
        self,
        read: Callable[[], Reading],
        ready: Callable[[], bool],
        control: Control,
        *,
        limits: Limits | None = None,
    ) -> None:
        """read: takes a reading. ready: whether this node should be sent traffic. limits: of each listener."""
        self._pages = Pages(read, ready)
        self._commands = Commands(control, read)
        self._limits = limits or Limits()
        self._listeners: list[tuple[asyncio.AbstractServer, HttpServer]] = []
        self._control_socket: ControlSocket | None = None
        self.address: Endpoint | None = None
        """Where it listens on TCP, with the port that it was given; None where it does not."""

    async def start(self, tcp: tuple[str, int] | None, unix_socket: Path | None) -> None:
        """Listen. tcp: an IP literal and a port, 0 = any. unix_socket: path of the control socket.

        Raises QlbError, listening nowhere, where one of them cannot be had.
        """
        try:
            if tcp is not None:
                await self._listen_tcp(Endpoint(*tcp))
            if unix_socket is not None:
                await self._listen_unix(unix_socket)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop listening, let answers under way be finished, and close every connection."""
        self.address = None
        listeners, self._listeners = self._listeners, []
        for listener, http in listeners:
            listener.close()
            http.pre_shutdown()
        await asyncio.gather(*(http.shutdown(_STOP_TIMEOUT_S) for _, http in listeners))
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await asyncio.gather(*(listener.wait_closed() for listener, _ in listeners))
        if self._control_socket is not None:
            self._control_socket.close()
            self._control_socket = None

    async def _listen_tcp(self, endpoint: Endpoint) -> None:
        local = ipaddress.ip_address(endpoint.host.partition("%")[0]).is_loopback
        http = HttpServer(Routes(self._pages, local_names_only=local).answer, self._limits)
        try:
            listener = await asyncio.get_running_loop().create_server(http, *endpoint)
        except OSError as error:
            reason = error.strerror or error
            raise QlbError(f"the admin server cannot listen on {endpoint} (admin.listen): {reason}") from error
        self._listeners.append((listener, http))
        self.address = Endpoint(*listener.sockets[0].getsockname()[:2])

    async def _listen_unix(self, path: Path) -> None:
        http = HttpServer(Routes(self._pages, self._commands).answer, self._limits)
        self._control_socket = await open_control_socket(path)
        listener = await asyncio.get_running_loop().create_unix_server(http, sock=self._control_socket.sock)
        self._listeners.append((listener, http))
