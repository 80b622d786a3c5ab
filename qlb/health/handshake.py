"""The probe ``handshake``: a complete QUIC handshake that checks the connection IDs of the server.

The server's connection IDs lead a client's packets back to it, from any address. Therefore every ID that the server
shows must decode to a server ID that this backend has in the configuration. These are the source IDs of its long
headers, including a Retry's, and the IDs of its NEW_CONNECTION_ID frames. So the probe finds a server with another key,
or with another server's ID, before a client changes its address. By chance, 1 of 256^server_id_length wrong IDs decodes
to the right server ID.

The probe verifies no certificate, because it tests the path, not the identity of the server. If TLS fails (no ALPN in
common, or the server requires a client certificate), the server has shown its ID and counts as alive.

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
"""A logger apart from the daemon's: the result of the probe reports every error of a handshake."""
_SILENT.addHandler(logging.NullHandler())


class _End(NamedTuple):
    """The end of a handshake. ok: the result is good, apart from the connection IDs.

    reached: the server or its host has answered. failed: the result, if the operating system did not deliver a packet.
    """

    ok: bool
    detail: str
    reached: bool = True
    failed: ProbeResult | None = None


class _Handshake(asyncio.DatagramProtocol):
    """One connection, from the first packet to its close."""

    def __init__(self, target: Target) -> None:
        self._loop = asyncio.get_running_loop()
        self.end: asyncio.Future[_End] = self._loop.create_future()
        self.ids: list[bytes] = []
        """The server's connection IDs, in the order of their arrival."""
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
        self._advance()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 (asyncio's name)
        self._note_id(data)
        try:
            self._quic.receive_datagram(data, self._endpoint, now=self._loop.time())
            self._advance()
        except Exception as error:  # a hostile server may end this probe, but nothing else
            self._finish(_End(ok=False, detail=f"its packets cannot be parsed: {error!r}"))

    def error_received(self, exc: Exception) -> None:
        self._finish(_undelivered(self._endpoint, exc))

    def close(self) -> None:
        """Send CONNECTION_CLOSE, so that the server can drop the connection, and close the socket."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._quic.close(error_code=QuicErrorCode.NO_ERROR)
            self._send(self._transport)
            self._transport.close()

    def issued_ids(self) -> tuple[bytes, ...]:
        """Return the IDs of NEW_CONNECTION_ID frames. aioquic has no public interface for them."""
        return tuple(one.cid for one in getattr(self._quic, "_peer_cid_available", ()))

    def _note_id(self, datagram: bytes) -> None:
        """Store the source ID of a long header that answers this client."""
        form, version, dcid, scid = parse(datagram)
        if form == LONG and version != VERSION_NEGOTIATION and dcid == self._quic.host_cid and scid not in self.ids:
            self.ids.append(scid)

    def _advance(self) -> None:
        """Handle the events of the connection, send its datagrams, and set its timer."""
        while (event := self._quic.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                self._quic.send_ping(_PING)  # the server acknowledges it after it has sent its IDs
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
        self._advance()

    def _send(self, transport: asyncio.DatagramTransport) -> None:
        for data, _ in self._quic.datagrams_to_send(now=self._loop.time()):
            transport.sendto(data)

    def _finish(self, end: _End) -> None:
        if not self.end.done():
            self.end.set_result(end)


async def probe_handshake(target: Target, timeout_s: float) -> ProbeResult:
    """Complete a handshake with a backend and check that its connection IDs lead back to it."""
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
    return _result(target, end, (*exchange.ids, *exchange.issued_ids()))


def _result(target: Target, end: _End, ids: tuple[bytes, ...]) -> ProbeResult:
    """Return the result from the end of the handshake and the connection IDs. Wrong IDs outweigh everything else."""
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
    """Return the end of a connection that the server has closed. A TLS alert proves that the server is alive."""
    if event.error_code in _TLS_ALERTS:
        alert = event.error_code - QuicErrorCode.CRYPTO_ERROR
        hint = ": set health.alpn to a protocol that it speaks" if alert == _NO_APPLICATION_PROTOCOL else ""
        return _End(ok=True, detail=f"it is alive and ends the handshake with TLS alert {alert}{hint}")
    return _End(
        ok=False, detail=f"it ends the connection with error 0x{event.error_code:x} {event.reason_phrase}".strip()
    )
