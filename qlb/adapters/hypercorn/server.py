"""hypercorn's ``serve`` with routable connection IDs, and its UDP server."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from types import CodeType, FunctionType
from typing import Final, Literal, cast

from aioquic.asyncio.protocol import QuicConnectionProtocol, QuicStreamHandler
from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from hypercorn.asyncio.run import worker_serve
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.config import Config, Sockets
from hypercorn.protocol.h3 import H3Protocol
from hypercorn.typing import AppWrapper, Framework, LifespanState, WorkerContext
from hypercorn.utils import wrap_app

from qlb.adapters.aioquic import PreferredAddress, RoutableServer, check_aioquic, routable_configuration
from qlb.adapters.hypercorn.connection import HttpConnection, Service
from qlb.cid import CidSource
from qlb.errors import QlbError

Application = Framework | Callable[..., Awaitable[None]]
"""An ASGI or WSGI application. The second form is for frameworks with types of their own for ASGI, as Starlette."""


async def serve(
    app: Application,
    config: Config,
    *,
    generator: CidSource,
    quic: QuicConfiguration | None = None,
    retry: bool = False,
    preferred_address: PreferredAddress | None = None,
    sockets: Sockets | None = None,
    shutdown_trigger: Callable[..., Awaitable[object]] | None = None,
    mode: Literal["asgi", "wsgi"] | None = None,
) -> None:
    """Serve an application as ``hypercorn.asyncio.serve`` does, until a signal or the trigger ends it.

    config: hypercorn's, with certfile, keyfile and quic_bind. Behind a balancer, set alt_svc_headers to the balancer's
    port: hypercorn would advertise its own. generator: the source of the IDs. quic: aioquic's configuration, for
    limits and timeouts; the default has hypercorn's certificate. retry, preferred_address: as in
    ``qlb.adapters.aioquic.serve``. sockets: bound ones, from config.create_sockets(), to learn a free port.
    Raises QlbError if the configuration would serve no QUIC, or with several workers, which need a server ID and a port
    each; CidError if the ID lengths differ; OSError if an address cannot be bound.
    """
    check_aioquic()
    check_hypercorn()
    _check_config(config, sockets)
    udp_server = partial(
        _UdpServer,
        quic=routable_configuration(quic or quic_configuration(config), generator),
        generator=generator,
        retry=retry,
        preferred_address=preferred_address,
    )
    wrapped = wrap_app(cast(Framework, app), config.wsgi_max_body_size, mode)
    await _with_udp_server(udp_server)(wrapped, config, sockets=sockets, shutdown_trigger=shutdown_trigger)


def quic_configuration(config: Config) -> QuicConfiguration:
    """Return an aioquic configuration with the certificate of a hypercorn configuration."""
    assert config.certfile is not None, "checked before"
    made = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    made.load_cert_chain(certfile=config.certfile, keyfile=config.keyfile, password=config.keyfile_password)
    return made


def _check_config(config: Config, sockets: Sockets | None) -> None:
    if config.workers != 1:
        raise QlbError(
            f"config.workers is {config.workers}: behind a balancer each process needs a server ID and a port of its "
            "own; start one process for each (docs/servers.md, section Several workers)"
        )
    if not config.ssl_enabled:
        raise QlbError("config.certfile or config.keyfile is missing: QUIC needs a certificate and its key")
    if not (config.quic_bind if sockets is None else sockets.quic_sockets):
        raise QlbError("config.quic_bind is empty: set it to the address of this backend")


def _with_udp_server(udp_server: Callable[..., "_UdpServer"]) -> Callable[..., Awaitable[None]]:
    """Return hypercorn's worker_serve with another UDP server.

    worker_serve has no parameter for it. A patch of hypercorn's module would change every server of this process, and
    a copy of the function would miss later releases: so its code gets other globals.
    """
    return FunctionType(worker_serve.__code__, {**worker_serve.__globals__, "UDPServer": udp_server})


class _UdpServer(RoutableServer):
    """The adapter's QUIC server with the interface of hypercorn's UDPServer. hypercorn awaits ``run``."""

    def __init__(
        self,
        app: AppWrapper,
        loop: asyncio.AbstractEventLoop,  # noqa: ARG002 (hypercorn's argument)
        config: Config,
        context: WorkerContext,
        state: LifespanState,
        *,
        quic: QuicConfiguration,
        generator: CidSource,
        retry: bool,
        preferred_address: PreferredAddress | None,
    ) -> None:
        """Create the server: first hypercorn's arguments, then the adapter's."""
        self._service = Service(app, config, context, state)
        super().__init__(
            configuration=quic,
            generator=generator,
            create_protocol=self._accept,
            retry=retry,
            preferred_address=preferred_address,
        )

    async def run(self) -> None:
        """Serve until hypercorn stops and every running request is complete. Then close all connections."""
        service = self._service
        try:
            await service.context.terminated.wait()
            while any(isinstance(one, HttpConnection) and one.is_busy for one in self._protocols.values()):
                service.progress.clear()
                await service.progress.wait()
        finally:
            self.close()
            await service.stop()

    def _accept(
        self, connection: QuicConnection, stream_handler: QuicStreamHandler | None = None
    ) -> QuicConnectionProtocol:
        if not self._service.context.terminated.is_set():
            return HttpConnection(connection, stream_handler, service=self._service)
        connection.close(
            error_code=QuicErrorCode.CONNECTION_REFUSED,
            frame_type=QuicFrameType.PADDING,  # without a type, aioquic sends an application close without our code
            reason_phrase="the server is stopping",
        )
        return QuicConnectionProtocol(connection, stream_handler)


RELIES_ON: Final = (
    "H3Protocol.app",
    "H3Protocol.client",
    "H3Protocol.config",
    "H3Protocol.context",
    "H3Protocol.quic",
    "H3Protocol.send",
    "H3Protocol.server",
    "H3Protocol.state",
    "H3Protocol.stream_send",
    "H3Protocol.task_group",
    "TaskGroup.spawn",
    "TaskGroup.spawn_app",
    "worker_serve.UDPServer",
)
"""Names and parameters of hypercorn that its documentation does not promise. A test reports the missing ones."""


def check_hypercorn() -> None:
    """Raise QlbError if the installed release of hypercorn lacks a name that this adapter uses."""
    missing = missing_names()
    if missing:
        raise QlbError(f"this hypercorn has no {', '.join(missing)}: install hypercorn 0.18")


def missing_names() -> tuple[str, ...]:
    """Return the entries of RELIES_ON that this release of hypercorn lacks."""
    there = {
        "H3Protocol": (*inspect.signature(H3Protocol).parameters, *dir(H3Protocol)),
        "TaskGroup": dir(TaskGroup),
        "worker_serve": tuple(_global_names(worker_serve.__code__)),
    }
    split = (name.rpartition(".") for name in RELIES_ON)
    return tuple(f"{owner}.{name}" for owner, _, name in split if name not in there[owner])


def _global_names(code: CodeType) -> set[str]:
    """Return the names in the code of a function and of the functions inside it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_global_names, inner))
