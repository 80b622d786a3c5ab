"""The probe ``handshake``: a complete QUIC handshake that checks the connection IDs of the server.

The server's connection IDs lead a client's packets back to it, from any address. Therefore every ID that the server
shows must decode to a server ID that this backend has in the configuration. These are the source IDs of its long
headers, including a Retry's, and the IDs of its NEW_CONNECTION_ID frames. So the probe finds a server with another key,
or with another server's ID, before a client changes its address. By chance, 1 of 256^server_id_length wrong IDs decodes
to the right server ID.

The probe verifies no certificate, because it tests the path, not the identity of the server. If TLS fails (no ALPN in
common, or the server requires a client certificate), the server has shown its ID and counts as alive.

After the handshake the probe sends packets of the same connection from other local ports, as after a change in a NAT.
The server must answer them. If several processes share the server's address (SO_REUSEPORT), the system passes some of
these packets to another process, which cannot. A ping from the first port then shows that the connection still works,
so that a lost packet or a busy server is no evidence. A server that has sent disable_active_migration may drop such
packets, so it is not tested.

Spec: RFC 9000, sections 5.1, 7.2, 8.1.2, 9.3 and 18.2; draft-ietf-quic-load-balancers, section "Server ID Encoding".
"""

import asyncio
import logging
import ssl
from contextlib import suppress
from typing import Final, NamedTuple, cast

from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionAdapter
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, PingAcknowledged
from aioquic.quic.packet import QuicErrorCode, pull_quic_transport_parameters

from qlb.addresses import Endpoint
from qlb.cid import config_id_of
from qlb.health.probe import ProbeResult, Target
from qlb.health.version_negotiation import connected, failure
from qlb.wire.invariants import LONG, parse
from qlb.wire.versions import VERSION_NEGOTIATION

_PING: Final = 0
_CONTROL: Final = -1
OTHER_PORTS: Final = 4
"""Ports that the probe tries after the handshake. Of two processes the other one gets none of them once in 16 times."""
_PATIENCE: Final = 1 / 8
"""The share of the timeout for the answer to one packet from another port."""
_TLS_ALERTS: Final = range(QuicErrorCode.CRYPTO_ERROR, QuicErrorCode.CRYPTO_ERROR + 256)
_NO_APPLICATION_PROTOCOL: Final = 120
_SILENT: Final = logging.Logger("aioquic")
"""A logger apart from the daemon's: the result of the probe reports every error of a handshake."""
_SILENT.addHandler(logging.NullHandler())


class _End(NamedTuple):
    """The end of a handshake. ok: the result is good, apart from the connection IDs.

    reached: the server or its host has answered. failed: the result, if the operating system did not deliver a packet.
    complete: the connection is open.
    """

    ok: bool
    detail: str
    reached: bool = True
    failed: ProbeResult | None = None
    complete: bool = False


class _OtherPort(asyncio.DatagramProtocol):
    """Another local port of the same connection."""

    def __init__(self, handshake: "_Handshake") -> None:
        self._handshake = handshake
        self.has_answer = False

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 (asyncio's name)
        if self._handshake.is_own(data):  # a stateless reset of another process is not, and would end the connection
            self.has_answer = True
            self._handshake.receive(data)


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
        self._sender: asyncio.DatagramTransport | None = None
        """The transport of the port that packets leave from."""
        self._others: list[asyncio.DatagramTransport] = []
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._may_move = self._follow_parameters()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._sender = cast(asyncio.DatagramTransport, transport)
        self._quic.connect(self._endpoint, now=self._loop.time())
        self._advance()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 (asyncio's name)
        self._note_id(data)
        self.receive(data)

    def receive(self, data: bytes) -> None:
        """Pass a datagram to the connection."""
        try:
            self._quic.receive_datagram(data, self._endpoint, now=self._loop.time())
            self._advance()
        except Exception as error:  # a hostile server may end this probe, but nothing else
            self._finish(_End(ok=False, detail=f"its packets cannot be parsed: {error!r}"))

    def error_received(self, exc: Exception) -> None:
        self._finish(_undelivered(self._endpoint, exc))

    def close(self) -> None:
        """Send CONNECTION_CLOSE, so that the server can drop the connection, and close the socket."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._quic.close(error_code=QuicErrorCode.NO_ERROR)
            self._send(self._transport)
            self._transport.close()
        for transport in self._others:
            transport.close()

    def issued_ids(self) -> tuple[bytes, ...]:
        """Return the IDs of NEW_CONNECTION_ID frames. aioquic has no public interface for them."""
        return tuple(one.cid for one in getattr(self._quic, "_peer_cid_available", ()))

    def is_own(self, datagram: bytes) -> bool:
        """Return whether a datagram is a short header with an ID of this client."""
        own = (one.cid for one in getattr(self._quic, "_host_cids", ()))
        return bool(datagram) and datagram[0] < 0x80 and any(datagram.startswith(cid, 1) for cid in own)

    async def answers_moves(self, patience_s: float) -> bool | None:
        """Return whether the server answers packets from other ports; None if that cannot be found out.

        patience_s: for one answer. Raises OSError.
        """
        if not self._may_move or self._transport is None:
            return None
        for number in range(1, OTHER_PORTS + 1):
            transport, port = await self._loop.create_datagram_endpoint(
                lambda: _OtherPort(self), sock=connected(self._endpoint)
            )
            self._others.append(transport)
            if not await self._ping(number, transport, patience_s):
                works = await self._ping(_CONTROL, self._transport, patience_s)
                return port.has_answer or (None if not works else False)
        return True

    async def _ping(self, number: int, sender: asyncio.DatagramTransport, patience_s: float) -> bool:
        """Send a ping from a port. Return whether the server has acknowledged it in time."""
        self._sender, acknowledged = sender, self._loop.create_future()
        self._pings[number] = acknowledged
        self._quic.send_ping(number)
        self._advance()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await acknowledged
        del self._pings[number]
        return acknowledged.done() and not acknowledged.cancelled()

    def _follow_parameters(self) -> bool:
        """Read the server's transport parameters when they arrive. Return False if aioquic does not show them."""
        parse = getattr(self._quic, "_parse_transport_parameters", None)
        if parse is None:
            return False

        def follow(data: bytes, from_session_ticket: bool = False) -> None:
            parse(data, from_session_ticket=from_session_ticket)
            self._may_move &= not pull_quic_transport_parameters(Buffer(data=data)).disable_active_migration

        setattr(self._quic, "_parse_transport_parameters", follow)  # noqa: B010 (mypy knows the method)
        return True

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
                self._finish(_End(ok=True, detail="it completes a handshake", complete=True))
                if (waiting := self._pings.get(event.uid)) is not None and not waiting.done():
                    waiting.set_result(None)
            elif isinstance(event, ConnectionTerminated):
                self._finish(_terminated(event))
        if self._sender is not None:
            self._send(self._sender)
        if self._timer is not None:
            self._timer.cancel()
        at_s = self._quic.get_timer()
        self._timer = None if at_s is None or self._closed else self._loop.call_at(at_s, self._on_timer)

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
    """Complete a handshake with a backend, and check that its IDs lead back to it, also from other ports."""
    exchange, loop = _Handshake(target), asyncio.get_running_loop()
    until_s = loop.time() + timeout_s
    try:
        end = await _shake(exchange, target, timeout_s)
        result = _result(target, end, (*exchange.ids, *exchange.issued_ids()))
        if not end.complete or not result.own_ids:
            return result
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout_at(until_s):
                return result._replace(moves=await exchange.answers_moves(_PATIENCE * timeout_s))
        return result
    finally:
        exchange.close()


async def _shake(exchange: _Handshake, target: Target, timeout_s: float) -> _End:
    """Return the end of the handshake."""
    try:
        async with asyncio.timeout(timeout_s):
            loop = asyncio.get_running_loop()
            await loop.create_datagram_endpoint(lambda: exchange, sock=connected(target.endpoint))
            return await exchange.end
    except TimeoutError:
        silent = not exchange.ids
        text = "no answer from" if silent else "no complete handshake with"
        return _End(ok=False, detail=f"{text} UDP {target.endpoint} within {timeout_s:g} s", reached=not silent)
    except OSError as error:
        return _undelivered(target.endpoint, error)


def _result(target: Target, end: _End, ids: tuple[bytes, ...]) -> ProbeResult:
    """Return the result from the end of the handshake and the connection IDs. Wrong IDs outweigh everything else."""
    own_ids = bool(target.server_ids and ids)
    if own_ids:
        finding = next((text for cid in ids if (text := target.mismatch(cid))), "")
        if finding:
            return ProbeResult(ok=False, detail=finding, reached=True, finding=finding)
        configs = ", ".join(sorted({str(config_id_of(cid)) for cid in ids}))
        end = end._replace(detail=f"{end.detail}; all of its {len(ids)} connection IDs are its own (config {configs})")
    if end.failed is not None:
        return end.failed._replace(doubtful=not end.reached, own_ids=own_ids)
    return ProbeResult(
        ok=end.ok, detail=end.detail, doubtful=not end.ok and not end.reached, reached=end.reached, own_ids=own_ids
    )


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
