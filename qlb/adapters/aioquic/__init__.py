"""The backend side for aioquic: its server issues QUIC-LB connection IDs, and aioquic stays as it is.

aioquic makes its connection IDs in three places: the connection's constructor, the refill that becomes
NEW_CONNECTION_ID frames, and the server's Retry. ``create_protocol`` runs before the server registers the
connection's first ID, so the first two are replaced there, on the one object, and nothing is patched or
forked. Retry is made before a connection exists: only ``serve`` can put a routable ID into it.

RELIES_ON names every private attribute of aioquic that this adapter touches; ``check_aioquic`` refuses, before
the first packet, a release that lacks one. aioquic reads every short header with one fixed ID length, so all
the configurations that a server issues from in its life must have the same cid_length.

IDs of Retry packets come from nonces of their own, so that a flood of Initials, each of which gets a Retry,
takes none from connections.

Where nonces run out, live connections keep the IDs that they have and get no more, and new connections are
refused with CONNECTION_REFUSED: never an exception in the datagram callback.

Spec: draft-ietf-quic-load-balancers, sections "Server Actions" and "Configuration Failover"; RFC 9000,
sections 5.1 (issuing IDs), 8.1.2 (Retry), 5.2.2 (refusing) and 9.6 (preferred addresses).
"""

from qlb.adapters.aioquic.connection import IdSource, PreferredAddress, RetryIdSource, install
from qlb.adapters.aioquic.release import RELIES_ON, check_aioquic, missing_attributes
from qlb.adapters.aioquic.server import CreateProtocol, RoutableServer, routable, routable_configuration, serve

__all__ = [
    "RELIES_ON",
    "CreateProtocol",
    "IdSource",
    "PreferredAddress",
    "RetryIdSource",
    "RoutableServer",
    "check_aioquic",
    "install",
    "missing_attributes",
    "routable",
    "routable_configuration",
    "serve",
]
