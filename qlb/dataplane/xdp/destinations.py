"""The addresses of backends: for the program's map, and for questions about the routes to them."""

from qlb.dataplane.table import backend_flags
from qlb.dataplane.xdp.layout import NO_DESTINATION, pack_destination
from qlb.dataplane.xdp.routes import source_towards
from qlb.routing.maglev import canonical_host
from qlb.routing.snapshot import Snapshot


def pack_destinations(snapshot: Snapshot) -> bytes:
    """Return the destinations of all backend indexes."""
    return b"".join(
        NO_DESTINATION
        if backend is None
        else pack_destination(backend_flags(backend), backend.endpoint.host, source_towards(backend.endpoint))
        for backend in snapshot.backends
    )


def hosts_of(snapshot: Snapshot) -> dict[str, str]:
    """Return the addresses of backends by name."""
    return {backend.name: canonical_host(backend.endpoint.host) for backend in snapshot.backends if backend is not None}
