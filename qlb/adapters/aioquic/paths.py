"""Clients whose own connection IDs are empty, as browsers' are, may try another path before they take it.

On another path aioquic answers with a spare ID of the client's or not at all, and such a client never issues one: its
probes stay without answer, and it does not move. But an empty ID links no paths, so the same one serves on all.

Spec: RFC 9000, sections 5.1, 8.2.2 and 9.5.
"""

from aioquic.quic.connection import NetworkAddress, QuicConnection, QuicConnectionId


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
