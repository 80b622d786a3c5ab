"""The batch plane's Python side: it compiles orders into flat memory for the C loop, and runs the loop's thread.

The loop (loop.c) runs without the GIL on a thread of the worker's process, so the process's event loop is free for the
supervisor's messages. C writes the counters into the shared memory.
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
"""The layout of struct qlb_endpoint in addresses.h."""
_NO_ENDPOINT: Final = bytes(ENDPOINT.size_bytes)
_NS: Final = 1_000_000_000
_NO_LIMIT: Final = 2**32 - 1
_AS_RECEIVED: Final = -1


class BatchPlane:
    """Proxy mode in C, on its own thread."""

    def __init__(self, listeners: Sequence[int], orders: Orders, counters_memory: memoryview) -> None:
        """Take over the listeners' descriptors; start() begins to read them. Raises OSError."""
        self._forwarder = _core.Forwarder(list(listeners), counters_memory, avoided_ports=list(REFLECTION_PORTS))
        self._thread = threading.Thread(target=self._run, name="forwarder", daemon=True)
        self.apply(orders)

    def start(self) -> None:
        """Start to forward."""
        self._thread.start()

    def apply(self, orders: Orders) -> None:
        """Apply new orders between two packets. Return when the loop forwards by them.

        Sessions stay open. If a backend has a new address, the next packet of each of its sessions opens a new session.
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

    def pause(self) -> None:
        """Stop reading the listeners between two rounds. Return when it has taken effect."""
        self._forwarder.set_paused(True)

    def resume(self) -> None:
        """Read the listeners again. Return when it has taken effect."""
        self._forwarder.set_paused(False)

    def stop(self) -> None:
        """Stop reading. Close all sessions, and this process's descriptors of the listeners."""
        self._forwarder.stop()
        if self._thread.is_alive():
            self._thread.join()
        self._forwarder.close()

    def _run(self) -> None:
        try:
            self._forwarder.run()
        except BaseException:
            # End the process: a worker that does not forward loses its share of the packets until it is replaced.
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)


def pack_endpoints(snapshot: Snapshot) -> bytes:
    """Return the backends' addresses by backend index, in the layout that the loop reads."""
    return b"".join(map(_pack_endpoint, snapshot.backends))


def _pack_endpoint(backend: Backend | None) -> bytes:
    return _NO_ENDPOINT if backend is None else _pack(backend.endpoint)


def _pack(endpoint: Endpoint) -> bytes:
    address = ipaddress.ip_address(canonical_host(endpoint.host))
    port = endpoint.port.to_bytes(2, "big")
    scope_id = 0 if address.version == 4 else _scope(address.scope_id)
    return ENDPOINT.pack(host=ipv6_octets(address), port=port, family=address.version, scope_id=scope_id)


def _scope(scope_id: str | None) -> int:
    """Return the number of a ``%scope``; 0 if there is none or no such interface, and then sends fail."""
    if scope_id is None or scope_id.isdecimal():
        return int(scope_id or 0)
    try:
        return socket.if_nametoindex(scope_id)
    except OSError:
        return 0
