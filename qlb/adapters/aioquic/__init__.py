"""The adapter for aioquic: an unmodified aioquic server issues QUIC-LB connection IDs.

aioquic creates connection IDs in three places: in the connection's constructor, in the refill behind
NEW_CONNECTION_ID frames, and in the server's Retry. ``create_protocol`` runs before the server registers the
connection's first ID. So the adapter replaces the first two on that one connection object; it patches no class and
forks nothing. A Retry is created before a connection exists, so only ``serve`` can put a routable ID into it.

RELIES_ON lists every private attribute of aioquic that this adapter uses. ``check_aioquic`` rejects a release without
one of them, before the first packet. aioquic parses every short header with one fixed ID length, so all CID configs
that a server issues from during its life need the same cid_length.

IDs of Retry packets have nonces of their own. A flood of Initials, each answered with a Retry, therefore uses no nonce
of a connection.

When the nonces are used up, live connections continue with their IDs and receive no new ones. New connections are
refused with CONNECTION_REFUSED; the datagram callback never raises.

Spec: draft-ietf-quic-load-balancers, sections "Server Actions" and "Configuration Failover"; RFC 9000,
sections 5.1 (issuing IDs), 8.1.2 (Retry), 5.2.2 (refusing) and 9.6 (preferred addresses).
"""

from qlb.adapters.aioquic.connection import RELIES_ON, PreferredAddress, check_aioquic, install, missing_attributes
from qlb.adapters.aioquic.server import CreateProtocol, RoutableServer, routable, routable_configuration, serve

__all__ = [
    "RELIES_ON",
    "CreateProtocol",
    "PreferredAddress",
    "RoutableServer",
    "check_aioquic",
    "install",
    "missing_attributes",
    "routable",
    "routable_configuration",
    "serve",
]
