"""Which aioquic this adapter fits: each private attribute that it touches has a name here.

A release that lacks one is refused before the first packet.
"""

import inspect
from typing import Final

from aioquic import __version__ as aioquic_version
from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.retry import QuicRetryTokenHandler

from qlb.errors import QlbError

RELIES_ON: Final = (
    "QuicConnection._events",
    "QuicConnection._host_cid_seq",
    "QuicConnection._host_cids",
    "QuicConnection._local_initial_source_connection_id",
    "QuicConnection._network_paths",
    "QuicConnection._peer_cid",
    "QuicConnection._replenish_connection_ids",
    "QuicConnection._retire_peer_cid",
    "QuicConnection._serialize_transport_parameters",
    "QuicConnection.host_cid",
    "QuicRetryTokenHandler.create_token.address",
    "QuicRetryTokenHandler.create_token.now",
    "QuicRetryTokenHandler.create_token.original_destination_connection_id",
    "QuicRetryTokenHandler.create_token.retry_source_connection_id",
    "QuicServer._configuration",
    "QuicServer._loop",
    "QuicServer._protocols",
    "QuicServer._retry",
    "QuicServer._transport",
)
"""Attributes and parameters of aioquic that its documentation does not promise; a test names the one that went."""


def check_aioquic() -> None:
    """Refuse a release of aioquic that this adapter does not fit, naming the attribute that it misses.

    Raises QlbError.
    """
    missing = missing_attributes()
    if missing:
        raise QlbError(
            f"aioquic {aioquic_version} has no {', '.join(missing)}; qlb.adapters.aioquic needs it: install aioquic 1.7"
        )


def missing_attributes() -> tuple[str, ...]:
    """Return each of RELIES_ON that this release of aioquic lacks."""
    there = {
        "QuicConnection": dir(QuicConnection(configuration=QuicConfiguration(is_client=True))),
        "QuicRetryTokenHandler.create_token": inspect.signature(QuicRetryTokenHandler.create_token).parameters,
        # A server needs a running loop; the names that its constructor's code uses need none.
        "QuicServer": QuicServer.__init__.__code__.co_names,
    }
    split = (name.rpartition(".") for name in RELIES_ON)
    return tuple(f"{owner}.{name}" for owner, _, name in split if name not in there[owner])
