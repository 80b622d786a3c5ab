"""The service's sockets, one row for each worker: those that were passed to this process, and new ones for the rest."""

import socket
from collections.abc import Sequence

from qlb.config.model import Config, Forwarding
from qlb.control.preflight import usable_cores, worker_count
from qlb.control.processes.workers import Place
from qlb.control.succession.inherit import Inherited
from qlb.dataplane.sockets import Buffers, adopt_listener, bound_endpoint, open_listener
from qlb.routing.backends import Endpoint


def open_places(config: Config, inherited: Inherited) -> list[Place]:
    """Take or bind every service address once for each worker. Raises OSError where one cannot be bound."""
    cores, count = usable_cores(), worker_count(config)
    rows: list[list[socket.socket]] = []
    try:
        endpoints: Sequence[Endpoint] = config.listen
        for _ in range(count):
            rows.append([])
            for endpoint in endpoints:
                rows[-1].append(_take_or_open(endpoint, config.forwarding, inherited))
            endpoints = [bound_endpoint(sock) for sock in rows[0]]  # port 0 is one port for all workers
    except OSError as error:
        for sock in [sock for row in rows for sock in row]:
            sock.close()
        raise OSError(error.errno, f"cannot listen on {endpoints[len(rows[-1])]}: {error.strerror}") from error
    pinned = config.forwarding.pin_workers
    return [Place(number, row, cores[number % len(cores)] if pinned else None) for number, row in enumerate(rows)]


def _take_or_open(endpoint: Endpoint, forwarding: Forwarding, inherited: Inherited) -> socket.socket:
    buffers = Buffers(forwarding.receive_buffer, forwarding.send_buffer)
    sock = inherited.take_udp(endpoint)
    if sock is None:
        return open_listener(endpoint, buffers, freebind=forwarding.freebind)
    adopt_listener(sock, buffers, freebind=forwarding.freebind)
    return sock
