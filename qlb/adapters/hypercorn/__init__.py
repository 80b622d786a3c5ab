"""The adapter for hypercorn: an ASGI application over HTTP/3, with QUIC-LB connection IDs of any length.

hypercorn's own UDP server issues aioquic's IDs and parses all short headers with 8 octets of ID. ``serve`` replaces
that server by the one of qlb.adapters.aioquic. So the first ID, NEW_CONNECTION_ID frames, Retry packets and preferred
addresses are routable as there. Everything else remains hypercorn's: HTTP/3 requests, the application's life cycle,
TCP listeners, signals and logs. No class of hypercorn is patched, so its other servers in this process do not change.

Differences to hypercorn's own UDP server (0.18):

- Each connection has its own queue and its own errors. A slow application or a hostile client stops no other client.
- An application receives ``http.disconnect`` when its client resets the stream or when the connection ends.
- Memory is bounded for each connection: packets are dropped while the application does not read its requests, and
  ``send`` waits while the client does not acknowledge responses.
- At the end, running requests complete within ``graceful_timeout``, and their responses are delivered.

Spec: ASGI 3.0; RFC 9114 (HTTP/3); RFC 9000, section 5.1 (issuing IDs).
"""

from qlb.adapters.hypercorn.connection import MAX_REQUESTS, MAX_UNREAD_BYTES, MAX_UNSENT_BYTES
from qlb.adapters.hypercorn.server import (
    RELIES_ON,
    Application,
    check_hypercorn,
    missing_names,
    quic_configuration,
    serve,
)

__all__ = [
    "MAX_REQUESTS",
    "MAX_UNREAD_BYTES",
    "MAX_UNSENT_BYTES",
    "RELIES_ON",
    "Application",
    "check_hypercorn",
    "missing_names",
    "quic_configuration",
    "serve",
]
