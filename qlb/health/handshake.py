"""The probe ``handshake``: a complete QUIC handshake, and a look at the connection IDs that the server uses in it.

The server's ID is what brings a client's packets back to it, from any address. So every ID that it shows (the source
IDs of its long headers, a Retry's among them, and those of its NEW_CONNECTION_ID frames) must decode to the server ID
that this backend has in the configuration. A server with another key, or with another server's ID, is found so before
its clients find out. An ID can decode to the right server ID by accident: 1 in 256^server_id_length.

No certificate is verified: this asks about the path, not about who the server is. A handshake that fails for a reason
of TLS (no ALPN in common, a certificate that is asked of the client) still shows the ID, and the server is alive.

Spec: RFC 9000, sections 5.1, 7.2 and 8.1.2; draft-ietf-quic-load-balancers, section "Server ID Encoding".
"""

import asyncio
import logging
import ssl
from typing import Final, NamedTuple, cast

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionAdapter
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, PingAcknowledged
from aioquic.quic.packet import QuicErrorCode

from qlb.addresses import Endpoint
from qlb.cid import config_id_of
from qlb.health.probe import ProbeResult, Target
from qlb.health.version_negotiation import connected, failure
from qlb.wire.invariants import LONG, parse
from qlb.wire.versions import VERSION_NEGOTIATION

_PING: Final = 0
_TLS_ALERTS: Final = range(QuicErrorCode.CRYPTO_ERROR, QuicErrorCode.CRYPTO_ERROR + 256)
_NO_APPLICATION_PROTOCOL: Final = 120
_SILENT: Final = logging.Logger("aioquic")
"""Out of the daemon's log: what goes wrong in a handshake is in its result."""
_SILENT.addHandler(logging.NullHandler())


class _End(NamedTuple):
    """How a handshake ended. ok: the server does its part. reached: it answered, or its host did.

    failed: the result, if the operating system did not deliver a packet.
    """

    ok: bool
    detail: str
    reached: bool = True
    failed: ProbeResult | None = None


class _Handshake(asyncio.DatagramProtocol):
    """One connection, from the first packet to the close."""

    def __init__(self, target: Target) -> None:
        self._loop = asyncio.get_running_loop()
        self.end: asyncio.Future[_End] = self._loop.create_future()
        self.ids: list[bytes] = []
        """The server's connection IDs, in the order in which they came."""
        self._endpoint = target.endpoint
        self._quic = QuicConnection(
            configuration=QuicConfiguration(
                is_client=True,
                alpn_protocols=list(target.alpn) or None,
                server_name=target.server_name or None,
                verify_mode=ssl.CERT_NONE,
            )
        )
        self._quic._logger = QuicConnectionAdapter(_SILENT, {"id": target.name, "host_cid": ""})
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self._quic.connect(self._endpoint, now=self._loop.time())
        self._go_on()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 (asyncio's name)
        self._note_id(data)
        try:
            self._quic.receive_datagram(data, self._endpoint, now=self._loop.time())
            self._go_on()
        except Exception as error:  # whatever a server may send: it ends this probe and nothing else
            self._finish(_End(ok=False, detail=f"what it sends cannot be read: {error!r}"))

    def error_received(self, exc: Exception) -> None:
        self._finish(_undelivered(self._endpoint, exc))

    def close(self) -> None:
        """Tell the server that it may forget the connection, and close the socket."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._quic.close(error_code=QuicErrorCode.NO_ERROR)
            self._send(self._transport)
            self._transport.close()

    def issued_ids(self) -> tuple[bytes, ...]:
        """Return the IDs of NEW_CONNECTION_ID frames. aioquic shows them nowhere but here."""
        return tuple(one.cid for one in getattr(self._quic, "_peer_cid_available", ()))

    def _note_id(self, datagram: bytes) -> None:
        """Keep the source ID of a long header that answers us."""
        form, version, dcid, scid = parse(datagram)
        if form == LONG and version != VERSION_NEGOTIATION and dcid == self._quic.host_cid and scid not in self.ids:
            self.ids.append(scid)

    def _go_on(self) -> None:
        """Take what has happened, send what is to be sent, and come back in time."""
        while (event := self._quic.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                self._quic.send_ping(_PING)  # its answer comes after the IDs that the server issues
            elif isinstance(event, PingAcknowledged):
                self._finish(_End(ok=True, detail="it completes a handshake"))
            elif isinstance(event, ConnectionTerminated):
                self._finish(_terminated(event))
        if self._transport is not None:
            self._send(self._transport)
        if self._timer is not None:
            self._timer.cancel()
        at_s = self._quic.get_timer()
        self._timer = None if at_s is None or self.end.done() else self._loop.call_at(at_s, self._on_timer)

    def _on_timer(self) -> None:
        self._quic.handle_timer(now=self._loop.time())
        self._go_on()

    def _send(self, transport: asyncio.DatagramTransport) -> None:
        for data, _ in self._quic.datagrams_to_send(now=self._loop.time()):
            transport.sendto(data)

    def _finish(self, end: _End) -> None:
        if not self.end.done():
            self.end.set_result(end)


async def probe_handshake(target: Target, timeout_s: float) -> ProbeResult:
    """Complete a handshake with a backend, and check that its connection IDs lead back to it."""
    exchange = _Handshake(target)
    try:
        async with asyncio.timeout(timeout_s):
            loop = asyncio.get_running_loop()
            await loop.create_datagram_endpoint(lambda: exchange, sock=connected(target.endpoint))
            end = await exchange.end
    except TimeoutError:
        silent = not exchange.ids
        text = "no answer from" if silent else "no complete handshake with"
        end = _End(ok=False, detail=f"{text} UDP {target.endpoint} within {timeout_s:g} s", reached=not silent)
    except OSError as error:
        end = _undelivered(target.endpoint, error)
    finally:
        exchange.close()
    return _judged(target, end, (*exchange.ids, *exchange.issued_ids()))


def _judged(target: Target, end: _End, ids: tuple[bytes, ...]) -> ProbeResult:
    """Put together how the handshake ended and whose the connection IDs are."""
    if target.server_ids and ids:
        finding = next((text for cid in ids if (text := target.mismatch(cid))), "")
        if finding:
            return ProbeResult(ok=False, detail=finding, reached=True, finding=finding)
        configs = ", ".join(sorted({str(config_id_of(cid)) for cid in ids}))
        end = end._replace(detail=f"{end.detail}; all of its {len(ids)} connection IDs are its own (config {configs})")
    if end.failed is not None:
        return end.failed._replace(doubtful=not end.reached)
    return ProbeResult(ok=end.ok, detail=end.detail, doubtful=not end.ok and not end.reached, reached=end.reached)


def _undelivered(endpoint: Endpoint, error: Exception) -> _End:
    result = failure(endpoint, error)
    return _End(ok=False, detail=result.detail, reached=result.reached, failed=result)


def _terminated(event: ConnectionTerminated) -> _End:
    """Say why the server has ended the connection. If for a reason of TLS, it is alive all the same."""
    if event.error_code in _TLS_ALERTS:
        alert = event.error_code - QuicErrorCode.CRYPTO_ERROR
        hint = ": set health.alpn to a protocol that it speaks" if alert == _NO_APPLICATION_PROTOCOL else ""
        return _End(ok=True, detail=f"it is alive and ends the handshake with TLS alert {alert}{hint}")
    return _End(
        ok=False, detail=f"it ends the connection with error 0x{event.error_code:x} {event.reason_phrase}".strip()
    )
