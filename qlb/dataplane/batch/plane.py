"""The batch plane's Python side: compiles orders into flat memory, hands them over, and keeps the loop's thread.

The loop itself (loop.c) runs on one thread of the worker's process without the GIL; the process's event loop
stays free for the supervisor's messages. Counters are written by C into the shared memory.
"""

import ipaddress
import os
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Final

from qlb.addresses import Endpoint, canonical_host, ipv6_octets
from qlb.dataplane import _core
from qlb.dataplane.base import Orders
from qlb.dataplane.core.table import Layout, compile_table
from qlb.dataplane.limits import REFLECTION_PORTS, affordable_sessions, port_budget, read_limits
from qlb.routing.backends import Backend
from qlb.routing.snapshot import Snapshot

ENDPOINT: Final = Layout("qlb_endpoint", {"host": "16s", "port": "2s", "family": "B", "unused": "B", "scope_id": "I"})
"""As in addresses.h."""
_NO_ENDPOINT: Final = bytes(ENDPOINT.size_bytes)
_NS: Final = 1_000_000_000
_NO_LIMIT: Final = 2**32 - 1
_AS_RECEIVED: Final = -1


class BatchPlane:
    """Proxy mode in C, on a thread of its own."""

    def __init__(self, listeners: Sequence[int], orders: Orders, counters_memory: memoryview) -> None:
        """Take over the listeners' descriptors; nothing is read before start(). Raises OSError."""
        self._forwarder = _core.Forwarder(list(listeners), counters_memory, avoided_ports=list(REFLECTION_PORTS))
        self._thread = threading.Thread(target=self._run, name="forwarder", daemon=True)
        self.apply(orders)

    def start(self) -> None:
        """Begin to forward."""
        self._thread.start()

    def apply(self, orders: Orders) -> None:
        """Swap the snapshot between two packets; returns when the loop goes by it.

        Sessions stay; one whose backend has another address by now is opened anew with its next packet.
        """
        settings = orders.settings
        self._forwarder.apply(
            compile_table(orders.snapshot),
            pack_endpoints(orders.snapshot),
            settings.flow_table_size,
            int(settings.flow_timeout_s * _NS),
            affordable_sessions(settings.max_sessions),
            int(settings.session_timeout_s * _NS),
            settings.gso_to_backends,
            int(settings.routable_session_timeout_s * _NS),
            port_budget(settings.workers, read_limits()) or _NO_LIMIT,
            _AS_RECEIVED if settings.dscp is None else settings.dscp,
        )

    def hold(self, held: bool) -> None:
        """Leave the listeners unread between two rounds, or read them again; returns when that is so."""
        self._forwarder.hold(held)

    def stop(self) -> None:
        """Stop reading, close every session and the listeners' descriptors of this process."""
        self._forwarder.stop()
        if self._thread.is_alive():
            self._thread.join()
        self._forwarder.close()

    def _run(self) -> None:
        try:
            self._forwarder.run()
        except BaseException:
            # A worker that does not forward is worse than none: the supervisor replaces it.
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)


def pack_endpoints(snapshot: Snapshot) -> bytes:
    """Return where the backends are, by backend index, as the loop reads it."""
    return b"".join(map(_pack_endpoint, snapshot.backends))


def _pack_endpoint(backend: Backend | None) -> bytes:
    return _NO_ENDPOINT if backend is None else _pack(backend.endpoint)


def _pack(endpoint: Endpoint) -> bytes:
    address = ipaddress.ip_address(canonical_host(endpoint.host))
    port = endpoint.port.to_bytes(2, "big")
    scope_id = 0 if address.version == 4 else _scope(address.scope_id)
    return ENDPOINT.pack(host=ipv6_octets(address), port=port, family=address.version, scope_id=scope_id)


def _scope(scope_id: str | None) -> int:
    """Return the number of a ``%scope``; 0 where there is none, or no such interface: then nothing can be sent."""
    if scope_id is None or scope_id.isdecimal():
        return int(scope_id or 0)
    try:
        return socket.if_nametoindex(scope_id)
    except OSError:
        return 0
