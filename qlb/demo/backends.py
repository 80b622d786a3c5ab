"""Demo backends: every backend of a configuration, served by one process on this machine.

``python -m qlb.demo.backends CONFIG [NAME]`` reads the same YAML as the daemon, binds each backend's address, or that
of NAME alone, writes one line ``ready`` to stdout, and ends, with 0, at the end of its stdin (its parent is gone), on
SIGTERM or on SIGINT. In the modes of direct return each backend is a host of its own: there NAME must be given, and the
service's addresses are bound, too.
Exit codes: 1, an address could not be bound; 2, the command line or the configuration is wrong.

A backend that has a server ID under several configurations issues from the one that is listed last: rotation
appends, so that one is the newest. Of several server IDs it takes the first. A backend without any is a plain
aioquic server, whose IDs mean nothing to the balancer.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from aioquic.asyncio.server import QuicServer
from aioquic.asyncio.server import serve as serve_plain

from qlb.adapters.aioquic import serve
from qlb.addresses import Endpoint
from qlb.cid import CidGenerator, CidParams
from qlb.config.build import backends as configured_backends
from qlb.config.build import cid_params
from qlb.config.load import load
from qlb.config.model import Config
from qlb.config.sections import DIRECT_RETURN
from qlb.demo.http3 import Certificate, answering_as, backend_configuration, make_certificate
from qlb.errors import BackendError, ConfigError
from qlb.observe.streams import open_missing_streams
from qlb.routing.backends import Backend

_STDIN: Final = 0


class DemoBackend(NamedTuple):
    """A backend that is being served. endpoint: where it is bound, with the real port where 0 was asked for."""

    name: str
    endpoint: Endpoint
    server: QuicServer


@contextlib.asynccontextmanager
async def serving(
    backends: Sequence[Backend], configs: Sequence[CidParams], certificate: Certificate | None = None
) -> AsyncIterator[list[DemoBackend]]:
    """Serve all backends on the running loop until the end of the block.

    configs: in the order of the configuration, the newest last. certificate: made anew where it is None.
    Raises BackendError, naming the backend, where an address cannot be bound.
    """
    certificate = certificate or make_certificate()
    started: list[DemoBackend] = []
    try:
        for backend in backends:
            started.append(await _start(backend, configs, certificate))  # noqa: PERF401, what runs must be known
        yield started
    finally:
        for running in started:
            running.server.close()


def id_source(backend: Backend, configs: Sequence[CidParams]) -> CidGenerator | None:
    """Return what a backend issues its connection IDs from: its newest configuration; None where it has none."""
    for params in reversed(configs):
        server_ids = backend.server_ids.get(params.config_id)
        if server_ids:
            return CidGenerator(params, server_ids[0], on_exhaustion="reserved")
    return None


async def _start(backend: Backend, configs: Sequence[CidParams], certificate: Certificate) -> DemoBackend:
    host, port = backend.endpoint
    configuration, create_protocol = backend_configuration(certificate), answering_as(backend.name)
    source = id_source(backend, configs)
    try:
        server = (
            await serve_plain(host, port, configuration=configuration, create_protocol=create_protocol)
            if source is None
            else await serve(host, port, configuration=configuration, create_protocol=create_protocol, generator=source)
        )
    except OSError as error:
        raise BackendError(f"cannot serve {backend.name} on {backend.endpoint}: {error.strerror}") from error
    assert server._transport is not None
    bound = server._transport.get_extra_info("sockname")
    return DemoBackend(backend.name, Endpoint(bound[0], bound[1]), server)


def issued(config: Config) -> tuple[CidParams, ...]:
    """Return the configurations that servers issue from."""
    return tuple(p for p, one in zip(cid_params(config), config.cid_configs, strict=True) if one.state == "active")


def main(arguments: Sequence[str]) -> int:
    """Serve the backends of a configuration file, or the one that is named; return the exit code."""
    open_missing_streams()
    if len(arguments) not in (1, 2):
        return _fail(2, "usage: python -m qlb.demo.backends CONFIG [NAME]")
    try:
        config = load(Path(arguments[0])).config
        backends = served_here(config, arguments[1] if len(arguments) == 2 else None)
    except ConfigError as error:
        return _fail(2, str(error))
    logging.getLogger("quic").setLevel(logging.ERROR)  # aioquic warns of each connection that a client breaks
    try:
        asyncio.run(_serve_until_stopped(backends, issued(config)))
    except BackendError as error:
        return _fail(1, f"demo backends: {error}")
    return 0


def served_here(config: Config, name: str | None) -> list[Backend]:
    """Return what one host serves: each backend once for every address that it listens at.

    Raises ConfigError where there is no such backend, or where one must be named.
    """
    found = [backend for backend in configured_backends(config) if name in (None, backend.name)]
    if not found and name is not None:
        raise ConfigError(f"there is no backend {name}")
    if config.forwarding.mode not in DIRECT_RETURN:
        return found
    if name is None:
        raise ConfigError(
            f"in mode {config.forwarding.mode} each backend is a host of its own: name the one of this host"
        )
    return found + [dataclasses.replace(found[0], endpoint=service) for service in config.listen]


async def _serve_until_stopped(backends: Sequence[Backend], configs: Sequence[CidParams]) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # A thread, for stdin may be anything: event loops wait for pipes and sockets only.
    threading.Thread(target=_await_end_of_stdin, args=(loop, stop), daemon=True).start()
    async with serving(backends, configs):
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write("ready\n")
            sys.stdout.flush()
        await stop.wait()


def _await_end_of_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(_STDIN, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(stop.set)


def _fail(code: int, text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
