"""Demo backends: one process that serves every backend of a configuration on this machine.

``python -m qlb.demo.backends CONFIG [NAME]`` reads the same YAML as the daemon and binds the address of each backend,
or only that of NAME. It then writes the line ``ready`` to stdout. It ends with 0 on SIGTERM, on SIGINT, and at the end
of its stdin, which shows that its parent has ended. In the modes of direct return each backend has its own host: NAME
is required, and the addresses of the service are bound too.
Exit codes: 1, an address could not be bound; 2, the command line or the configuration is wrong.

If a backend has server IDs under several active CID configs, it issues from the one that is listed last: a rotation
appends, so this is the newest. Of several server IDs it uses the first. A backend without a server ID is a plain
aioquic server, whose IDs the balancer cannot decode. The process follows rotations: when CONFIG or a key file changes,
its servers issue from the new CID config.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from aioquic.asyncio.server import QuicServer
from aioquic.asyncio.server import serve as serve_plain

from qlb.adapters.aioquic import serve
from qlb.addresses import Endpoint
from qlb.cid import CidGenerator, CidParams, RotatingCidGenerator
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
_LOOK_S: Final = 1.0
"""The time between two looks at the configuration. A change counts when it is the same in two looks."""


class DemoBackend(NamedTuple):
    """A running backend. endpoint: its bound address; if port 0 was requested, with the real port.

    source: of its connection IDs; None if they are not routable.
    """

    name: str
    endpoint: Endpoint
    server: QuicServer
    source: RotatingCidGenerator | None = None


@contextlib.asynccontextmanager
async def serving(
    backends: Sequence[Backend], configs: Sequence[CidParams], certificate: Certificate | None = None
) -> AsyncIterator[list[DemoBackend]]:
    """Serve all backends on the running loop until the end of the block.

    configs: in the order of the configuration, the newest last. certificate: by default, a new one.
    Raises BackendError with the backend's name if an address cannot be bound.
    """
    certificate = certificate or make_certificate()
    started: list[DemoBackend] = []
    try:
        for backend in backends:
            started.append(await _start(backend, configs, certificate))  # noqa: PERF401 (if one fails, the earlier ones must be closed)
        yield started
    finally:
        for running in started:
            running.server.close()


def id_source(backend: Backend, configs: Sequence[CidParams]) -> CidGenerator | None:
    """Return the generator for a backend's newest CID config; None if it has no server ID."""
    for params in reversed(configs):
        server_ids = backend.server_ids.get(params.config_id)
        if server_ids:
            return CidGenerator(params, server_ids[0], on_exhaustion="reserved")
    return None


async def _start(backend: Backend, configs: Sequence[CidParams], certificate: Certificate) -> DemoBackend:
    host, port = backend.endpoint
    configuration, create_protocol = backend_configuration(certificate), answering_as(backend.name)
    generator = id_source(backend, configs)
    source = None if generator is None else RotatingCidGenerator(generator)
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
    return DemoBackend(backend.name, Endpoint(bound[0], bound[1]), server, source)


def issued(config: Config) -> tuple[CidParams, ...]:
    """Return the CID configs that servers issue from."""
    return tuple(p for p, one in zip(cid_params(config), config.cid_configs, strict=True) if one.state == "active")


def main(arguments: Sequence[str]) -> int:
    """Serve the backends of a configuration, or only the named one; return the exit code."""
    open_missing_streams()
    if len(arguments) not in (1, 2):
        return _fail(2, "usage: python -m qlb.demo.backends CONFIG [NAME]")
    try:
        config = load(Path(arguments[0])).config
        backends = served_here(config, arguments[1] if len(arguments) == 2 else None)
    except ConfigError as error:
        return _fail(2, str(error))
    logging.getLogger("quic").setLevel(logging.ERROR)  # aioquic logs a warning for each connection that a client breaks
    try:
        asyncio.run(_serve_until_stopped(Path(arguments[0]), backends, issued(config)))
    except BackendError as error:
        return _fail(1, f"demo backends: {error}")
    return 0


def served_here(config: Config, name: str | None) -> list[Backend]:
    """Return the backends that one host serves: one entry for each address to bind.

    Raises ConfigError if the named backend does not exist, or if a name is required.
    """
    found = [backend for backend in configured_backends(config) if name in (None, backend.name)]
    if not found and name is not None:
        raise ConfigError(f"the configuration has no backend {name}")
    if config.forwarding.mode not in DIRECT_RETURN:
        return found
    if name is None:
        raise ConfigError(
            f"in mode {config.forwarding.mode} each backend has its own host: add the name of this host's backend"
        )
    return found + [dataclasses.replace(found[0], endpoint=service) for service in config.listen]


class Rotations:
    """The rotations of a configuration file, applied to running backends."""

    def __init__(self, path: Path, running: Sequence[DemoBackend], report: Callable[[str], object]) -> None:
        """path: of the configuration. report: called with each change and each fault, in words."""
        self._path = path
        self._running = running
        self._report = report
        self._files = {path}
        self._read: object = None
        self._pending: object = None
        self._fault = ""

    async def follow(self) -> None:
        """Look at the files once a second, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Apply the configuration if its files have changed since it was last read, and no longer change."""
        now = [_state(file) for file in sorted(self._files)]
        is_settled, self._pending = now == self._pending, now
        if is_settled and now != self._read:
            self._read = now
            await self._apply()

    async def _apply(self) -> None:
        named: list[Path] = []
        try:
            loaded = await asyncio.to_thread(load, self._path, before_reading=named.append)
        except ConfigError as error:
            self._report_fault(f"the demo servers keep their connection IDs: {error.problems[0]}")
            return
        self._files = {self._path, *named}
        backends = {backend.name: backend for backend in configured_backends(loaded.config)}
        for one in self._running:
            if one.name in backends:
                self._rotate(one, id_source(backends[one.name], issued(loaded.config)))

    def _rotate(self, one: DemoBackend, new: CidGenerator | None) -> None:
        """Let one backend issue from a new generator, if that differs from the old one and fits its server."""
        if (
            one.source is None
            or new is None
            or (new.params, new.server_id) == (one.source.params, one.source.server_id)
        ):
            return
        if new.params.cid_length != one.source.params.cid_length:
            self._report_fault(f"{one.name} cannot change to another cid_length: restart the demo servers")
            return
        one.source.rotate(new)
        self._report(f"{one.name} issues connection IDs of config {new.params.config_id} now")

    def _report_fault(self, text: str) -> None:
        if text != self._fault:
            self._fault = text
            self._report(text)


def _state(file: Path) -> tuple[int, ...]:
    """Return what changes when a file is written or replaced; empty if there is no file."""
    try:
        status = file.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


async def _serve_until_stopped(path: Path, backends: Sequence[Backend], configs: Sequence[CidParams]) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # A thread reads stdin, because it may be a file, and event loops wait only for pipes and sockets.
    threading.Thread(target=_await_end_of_stdin, args=(loop, stop), daemon=True).start()
    async with serving(backends, configs) as running:
        following = asyncio.create_task(Rotations(path, running, lambda text: sys.stderr.write(f"{text}\n")).follow())
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write("ready\n")
            sys.stdout.flush()
        await stop.wait()
        following.cancel()


def _await_end_of_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(_STDIN, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop has already ended
        loop.call_soon_threadsafe(stop.set)


def _fail(code: int, text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
