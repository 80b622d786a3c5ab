"""The private attributes of aioquic that this adapter uses. It rejects a release without them before any packet."""

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
"""Attributes and parameters of aioquic that its documentation does not promise. A test reports the missing ones."""


def check_aioquic() -> None:
    """Raise QlbError if the installed release of aioquic lacks an attribute that this adapter uses."""
    missing = missing_attributes()
    if missing:
        raise QlbError(
            f"aioquic {aioquic_version} has no {', '.join(missing)}; qlb.adapters.aioquic needs it: install aioquic 1.7"
        )


def missing_attributes() -> tuple[str, ...]:
    """Return the entries of RELIES_ON that this release of aioquic lacks."""
    there = {
        "QuicConnection": dir(QuicConnection(configuration=QuicConfiguration(is_client=True))),
        "QuicRetryTokenHandler.create_token": inspect.signature(QuicRetryTokenHandler.create_token).parameters,
        # A QuicServer object needs a running event loop. The names in its constructor's code can be read without one.
        "QuicServer": QuicServer.__init__.__code__.co_names,
    }
    split = (name.rpartition(".") for name in RELIES_ON)
    return tuple(f"{owner}.{name}" for owner, _, name in split if name not in there[owner])
