"""One server connection of aioquic issues the generator's IDs, in its first packets and in NEW_CONNECTION_ID frames.

Everything is replaced on the one object, fresh from its constructor; nothing is patched or forked.

Spec: RFC 9000, sections 5.1 (issuing IDs), 9.6 and 18.2 (preferred_address).
"""

import ipaddress
import os
from typing import Final, NamedTuple, Protocol, runtime_checkable

from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import NetworkAddress, QuicConnection, QuicConnectionId
from aioquic.quic.events import ConnectionIdIssued
from aioquic.quic.packet import QuicPreferredAddress, push_quic_preferred_address

from qlb.cid import reserved_cid
from qlb.cid.params import RESERVED_CONFIG_ID, CidParams
from qlb.errors import CidError, NonceExhausted


def answer_on_every_path(connection: QuicConnection) -> None:
    """Make one server connection answer probes of a client whose IDs are empty; other clients notice nothing."""
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
    """Where clients are to go once the handshake is over, as (host, port); None = stay, in that address family.

    It is an address of a balancer that decodes this server's IDs, as clients see it: of the node that an anycast
    handshake has come through, for one. Clients may follow or stay; a client follows within its own family only.
    """

    ipv4: tuple[str, int] | None = None
    ipv6: tuple[str, int] | None = None

    def check(self) -> None:
        """Raise CidError where a client could not go there."""
        if self.ipv4 is None and self.ipv6 is None:
            raise CidError("preferred_address has neither ipv4 nor ipv6: give one of them, or leave it out")
        for family, address in ((ipaddress.IPv4Address, self.ipv4), (ipaddress.IPv6Address, self.ipv6)):
            if address is not None:
                _require_reachable(family, *address)


class IdSource(Protocol):
    """Whatever issues a server's IDs: a CidGenerator, or something that swaps one for the next on rotation.

    The length of the IDs, ``params.cid_length``, must stay the same for the life of the server.
    """

    @property
    def params(self) -> CidParams:
        """The configuration that the next ID is made under."""

    def generate(self) -> bytes:
        """Return a new ID, first octet included. Raises NonceExhausted."""


@runtime_checkable
class RetryIdSource(IdSource, Protocol):
    """A source that has IDs for Retry packets beside those of connections, as CidGenerator and RotatingGenerator have.

    With retry, a server takes the IDs of its Retry packets from there. From a plain IdSource it takes none: its Retry
    packets have unroutable IDs, and balancers lead the client's next Initial by its 4-tuple.
    """

    def reserve_for_retry(self) -> None:
        """Set IDs aside for Retry packets; called once, before the first packet."""

    def generate_retry(self) -> bytes:
        """Return an ID for the Source Connection ID of a Retry packet, first octet included. Never raises."""


def install(
    connection: QuicConnection, generator: IdSource, *, preferred_address: PreferredAddress | None = None
) -> None:
    """Make one server connection, fresh from its constructor, issue the generator's IDs.

    preferred_address: advertised with an ID of its own from the same generator, so that it is routable there too.
    Where the first ID is one of the reserved config, the balancer can only route it by its 4-tuple: the client
    is told not to migrate and gets no second ID, nor another address. Plaintext configurations do send
    NEW_CONNECTION_ID, which the draft advises against: without a second ID a client that follows RFC 9000 cannot
    change its address at all.
    Raises NonceExhausted, with the connection as it was; CidError where the lengths differ.
    """
    require_length(connection.configuration, generator)
    first = generator.generate()
    if len(first) != generator.params.cid_length:
        raise NonceExhausted(f"no reserved ID has {generator.params.cid_length} octets: cid_length must be 8 or more")
    set_first_id(connection, first)
    answer_on_every_path(connection)
    if _is_reserved(first):
        _pin_to_path(connection)
        return
    if preferred_address is not None:
        _advertise(connection, generator, preferred_address)
    _refill_from(connection, generator)


def set_first_id(connection: QuicConnection, cid: bytes) -> None:
    """Put an ID in the place of the one that the constructor made."""
    connection._host_cids[0].cid = cid
    connection.host_cid = cid
    connection._local_initial_source_connection_id = cid


def _refill_from(connection: QuicConnection, generator: IdSource) -> None:
    """Put the generator's IDs into what aioquic is about to offer; how many and when stays aioquic's choice."""
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
            # aioquic announces an ID to its server when the next datagram arrives. If that is the first one
            # to bear the new ID, the server does not know it yet and drops it: so announce it now.
            connection._events.append(ConnectionIdIssued(connection_id=cid))
            kept += 1

    connection._replenish_connection_ids = refill  # type: ignore[method-assign]


def _pin_to_path(connection: QuicConnection) -> None:
    """Send no NEW_CONNECTION_ID, and ask the client to stay at its address."""
    connection._replenish_connection_ids = lambda: None  # type: ignore[method-assign]
    _add_transport_parameter(connection, _DISABLE_ACTIVE_MIGRATION)


def _advertise(connection: QuicConnection, generator: IdSource, address: PreferredAddress) -> None:
    """Send preferred_address; its ID is the second of the connection, and no frame announces it."""
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


def _spare_id(generator: IdSource) -> bytes | None:
    """Return an ID for NEW_CONNECTION_ID; None where only unroutable ones are left, which must not be offered."""
    try:
        cid = generator.generate()
    except NonceExhausted:
        return None
    return None if _is_reserved(cid) else cid


def refusal_id(generator: IdSource) -> bytes:
    """Return an ID that routes nowhere, for a packet that ends the exchange."""
    return reserved_cid(max(generator.params.cid_length, 8))


def _is_reserved(cid: bytes) -> bool:
    return cid[0] >> 5 == RESERVED_CONFIG_ID


def require_length(configuration: QuicConfiguration, generator: IdSource) -> None:
    """Raise CidError where the server would not read the generator's IDs."""
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
        raise CidError(f"preferred_address: nobody can go to {host} port {port}")
