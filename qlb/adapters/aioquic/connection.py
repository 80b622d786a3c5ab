"""Make one aioquic server connection issue the generator's IDs, in its first packets and in NEW_CONNECTION_ID frames.

The functions change one connection object that its constructor has just returned. They patch no class and fork nothing.

Spec: RFC 9000, sections 5.1 (issuing IDs), 9.6 and 18.2 (preferred_address).
"""

import inspect
import ipaddress
import os
from typing import Final, NamedTuple

from aioquic import __version__ as aioquic_version
from aioquic.asyncio.server import QuicServer
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import NetworkAddress, QuicConnection, QuicConnectionId
from aioquic.quic.events import ConnectionIdIssued
from aioquic.quic.packet import QuicPreferredAddress, push_quic_preferred_address
from aioquic.quic.retry import QuicRetryTokenHandler

from qlb.cid import CidSource, config_id_of, reserved_cid
from qlb.cid.params import RESERVED_CONFIG_ID
from qlb.errors import CidError, NonceExhausted, QlbError


def answer_on_every_path(connection: QuicConnection) -> None:
    """Make one server connection answer path probes of a client with empty IDs. For other clients nothing changes."""
    send, retire = connection.datagrams_to_send, connection._retire_peer_cid

    def send_everywhere(now: float) -> list[tuple[bytes, NetworkAddress]]:
        if not connection._peer_cid.cid:
            for path in connection._network_paths[1:]:
                path.peer_cid = connection._peer_cid
        return send(now)

    def retire_what_was_issued(connection_id: QuicConnectionId) -> None:
        if connection_id.cid:
            retire(connection_id)

    connection.datagrams_to_send = send_everywhere  # type: ignore[method-assign]
    connection._retire_peer_cid = retire_what_was_issued  # type: ignore[method-assign]


_DISABLE_ACTIVE_MIGRATION: Final = b"\x0c\x00"
"""The transport parameter as it is sent: ID 0x0c, no value. Spec: RFC 9000, section 18.2."""
_PREFERRED_ADDRESS: Final = 0x0D
_MAX_PREFERRED_BYTES: Final = 4 + 2 + 16 + 2 + 1 + 20 + 16
_RESET_TOKEN_BYTES: Final = 16


class PreferredAddress(NamedTuple):
    """The addresses that clients should use after the handshake, as (host, port); None = none in that address family.

    Each is an address of a balancer that decodes this server's IDs, as clients see it: for example the unicast address
    of the node that forwarded an anycast handshake. A client may ignore it, and uses only one of its own address
    family. Spec: RFC 9000, section 9.6.
    """

    ipv4: tuple[str, int] | None = None
    ipv6: tuple[str, int] | None = None

    def check(self) -> None:
        """Raise CidError if there is no address, or if one cannot be reached."""
        if self.ipv4 is None and self.ipv6 is None:
            raise CidError("preferred_address has neither ipv4 nor ipv6: set one of them, or omit preferred_address")
        for family, address in ((ipaddress.IPv4Address, self.ipv4), (ipaddress.IPv6Address, self.ipv6)):
            if address is not None:
                _require_reachable(family, *address)


def install(
    connection: QuicConnection, generator: CidSource, *, preferred_address: PreferredAddress | None = None
) -> None:
    """Make one server connection issue the generator's IDs. The connection must be new and have sent nothing.

    preferred_address: advertised with another ID of the same generator, so that packets to it are routable too.
    If the first ID is under the reserved config ID, balancers can forward the connection by its 4-tuple only. The
    client is then asked not to migrate, and receives neither a second ID nor a preferred address.
    With a plaintext CID config the connection still sends NEW_CONNECTION_ID, although the draft advises against it:
    without a second ID, a client that follows RFC 9000 cannot change its address at all.
    Raises NonceExhausted, and leaves the connection unchanged; CidError if the ID lengths differ.
    Spec: RFC 9000, sections 5.1, 9.6 and 18.2.
    """
    require_length(connection.configuration, generator)
    first = generator.generate()
    if len(first) != generator.params.cid_length:
        length = generator.params.cid_length
        raise NonceExhausted(
            f"an ID under the reserved config ID cannot have {length} octets: set cid_length to 8 or more"
        )
    set_first_id(connection, first)
    answer_on_every_path(connection)
    if _is_reserved(first):
        _pin_to_path(connection)
        return
    if preferred_address is not None:
        _advertise(connection, generator, preferred_address)
    _refill_from(connection, generator)


def set_first_id(connection: QuicConnection, cid: bytes) -> None:
    """Replace the ID that the constructor created. cid: first octet included."""
    connection._host_cids[0].cid = cid
    connection.host_cid = cid
    connection._local_initial_source_connection_id = cid


def _refill_from(connection: QuicConnection, generator: CidSource) -> None:
    """Replace the IDs of aioquic's refill with the generator's. aioquic still decides how many it offers, and when."""
    replenish = connection._replenish_connection_ids

    def refill() -> None:
        kept = len(connection._host_cids)
        replenish()
        while kept < len(connection._host_cids):
            cid = _spare_id(generator)
            if cid is None:
                connection._host_cid_seq -= len(connection._host_cids) - kept
                del connection._host_cids[kept:]
                return
            connection._host_cids[kept].cid = cid
            # aioquic registers an ID with its server when the next datagram arrives. If that datagram is the first
            # one with the new ID, the server does not know the ID yet and drops it. So register it now.
            connection._events.append(ConnectionIdIssued(connection_id=cid))
            kept += 1

    connection._replenish_connection_ids = refill  # type: ignore[method-assign]


def _pin_to_path(connection: QuicConnection) -> None:
    """Send no NEW_CONNECTION_ID frames, and ask the client not to migrate."""
    connection._replenish_connection_ids = lambda: None  # type: ignore[method-assign]
    _add_transport_parameter(connection, _DISABLE_ACTIVE_MIGRATION)


def _advertise(connection: QuicConnection, generator: CidSource, address: PreferredAddress) -> None:
    """Send preferred_address. It contains the connection's second ID, which needs no frame."""
    cid = _spare_id(generator)
    if cid is None:
        return
    token = os.urandom(_RESET_TOKEN_BYTES)
    sequence_number = connection._host_cid_seq
    connection._host_cids.append(QuicConnectionId(cid, sequence_number, token, was_sent=True))
    connection._host_cid_seq += 1
    connection._events.append(ConnectionIdIssued(connection_id=cid))
    value = Buffer(capacity=_MAX_PREFERRED_BYTES)
    push_quic_preferred_address(value, QuicPreferredAddress(address.ipv4, address.ipv6, cid, token))
    _add_transport_parameter(connection, bytes((_PREFERRED_ADDRESS, len(value.data))) + value.data)


def _add_transport_parameter(connection: QuicConnection, parameter: bytes) -> None:
    serialize = connection._serialize_transport_parameters
    connection._serialize_transport_parameters = lambda: serialize() + parameter  # type: ignore[method-assign]


def _spare_id(generator: CidSource) -> bytes | None:
    """Return an ID for NEW_CONNECTION_ID, or None if only unroutable IDs are left: those must not be offered."""
    try:
        cid = generator.generate()
    except NonceExhausted:
        return None
    return None if _is_reserved(cid) else cid


def refusal_id(generator: CidSource) -> bytes:
    """Return an unroutable ID, for a packet that ends the exchange."""
    return reserved_cid(max(generator.params.cid_length, 8))


def _is_reserved(cid: bytes) -> bool:
    return config_id_of(cid) == RESERVED_CONFIG_ID


def require_length(configuration: QuicConfiguration, generator: CidSource) -> None:
    """Raise CidError if the server would parse short headers with another ID length than the generator's."""
    length = generator.params.cid_length
    if configuration.connection_id_length != length:
        raise CidError(
            f"configuration.connection_id_length is {configuration.connection_id_length}, "
            f"but the generator's connection IDs have {length} octets: set it to {length}"
        )


def _require_reachable(family: type[ipaddress.IPv4Address | ipaddress.IPv6Address], host: str, port: int) -> None:
    try:
        address = family(host)
    except ValueError as error:
        raise CidError(f"preferred_address: {error}") from error
    if address.is_unspecified or address.is_multicast or not 0 < port < 1 << 16:
        raise CidError(f"preferred_address: {host} port {port} is not the address of one host")


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
