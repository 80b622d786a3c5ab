"""The HTTP/3 server of a demo backend. Its answers contain its name.

GET /bytes/N    N octets, 100 MiB at most, produced as fast as the client receives them
GET other paths the backend's name and a newline
POST any path   the same body, 64 KiB at most

Every answer has the header ``x-backend: NAME``. The memory that a client can occupy is bounded by aioquic's limit of
open streams, by the sizes below, and because a long answer is produced only as fast as it is sent.
"""

import datetime
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from aioquic.asyncio.protocol import QuicConnectionProtocol, QuicStreamHandler
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    ProtocolNegotiated,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from aioquic.quic.stream import QuicStreamSender
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from qlb.adapters.aioquic import CreateProtocol

DEFAULT_NAMES: Final = ("localhost", "127.0.0.1", "::1")
_LIFETIME: Final = datetime.timedelta(days=10)
"""Browsers accept a certificate by its hash alone only if it is valid for 14 days at most."""
_CLOCK_SKEW: Final = datetime.timedelta(hours=1)


class Certificate(NamedTuple):
    """A self-signed certificate and its key, in the types of aioquic's QuicConfiguration."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """Return the certificate in PEM, for clients that verify it."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def sha256(self) -> bytes:
        """Return the hash by which a browser can accept the certificate: serverCertificateHashes of WebTransport."""
        return self.certificate.fingerprint(hashes.SHA256())

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``certificate.pem`` and ``key.pem`` (mode 0600) into a folder; return their paths."""
        certificate_path, key_path = folder / "certificate.pem", folder / "key.pem"
        certificate_path.write_bytes(self.pem)
        key_path.touch(mode=0o600)
        key_path.write_bytes(
            self.private_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate_path, key_path


def make_certificate(names: Iterable[str] = DEFAULT_NAMES) -> Certificate:
    """Create a certificate for host names and IP literals, valid from one hour ago for 10 days."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "qlb demo")])
    begin = datetime.datetime.now(datetime.UTC) - _CLOCK_SKEW
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private_key, hashes.SHA256())
    )
    return Certificate(certificate, private_key)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


MAX_BODY_BYTES: Final = 100 * 2**20
"""The maximum length of an answer to /bytes/N."""
MAX_ECHO_BYTES: Final = 64 * 2**10
"""The maximum length of the body of a request."""
MAX_UNPARSED_BYTES: Final = 64 * 2**10
"""The maximum length of an incomplete HTTP/3 frame; aioquic itself has no limit."""

_CHUNK: Final = bytes(range(256)) * 256
"""A piece of a long answer, 64 KiB, written after aioquic has sent the previous piece."""
_SIZED_PATH: Final = re.compile(rb"/bytes/([0-9]{1,9})")


def backend_configuration(certificate: Certificate) -> QuicConfiguration:
    """Return the aioquic configuration of a demo backend."""
    return QuicConfiguration(
        is_client=False,
        alpn_protocols=H3_ALPN,
        certificate=certificate.certificate,
        private_key=certificate.private_key,
    )


def answering_as(name: str) -> CreateProtocol:
    """Return the create_protocol of a backend with this name."""
    return partial(BackendProtocol, name=name)


@dataclass(slots=True)
class _Request:
    """A request that is still arriving."""

    method: bytes
    path: bytes
    body: bytearray = field(default_factory=bytearray)


class BackendProtocol(QuicConnectionProtocol):
    """One client's connection to a demo backend."""

    def __init__(self, quic: QuicConnection, stream_handler: QuicStreamHandler | None = None, *, name: str) -> None:
        """name: of the backend, in its answers."""
        super().__init__(quic, stream_handler)
        self._name = name.encode()
        self._http: H3Connection | None = None
        self._requests: dict[int, _Request] = {}
        self._octets_to_write: dict[int, int] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        """Pass stream data to HTTP/3, and drop requests that the client has given up."""
        if isinstance(event, ProtocolNegotiated) and event.alpn_protocol in H3_ALPN:
            self._http = H3Connection(self._quic)
        elif isinstance(event, StopSendingReceived | StreamReset):
            self._abandon(event.stream_id)
        elif isinstance(event, ConnectionTerminated):
            self._requests.clear()
            self._octets_to_write.clear()
        if self._http is not None:
            for http_event in self._http.handle_event(event):
                self._http_event_received(self._http, http_event)
            if isinstance(event, StreamDataReceived):
                self._limit_unparsed(self._http, event.stream_id)

    def transmit(self) -> None:
        """Send pending data, and continue long answers whose last piece has been sent."""
        super().transmit()
        if self._octets_to_write and self._write_on():
            super().transmit()

    def _http_event_received(self, http: H3Connection, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            self._begin(event)
        if isinstance(event, DataReceived):
            self._take_body(http, event.stream_id, event.data)
        if isinstance(event, HeadersReceived | DataReceived) and event.stream_ended:
            request = self._requests.pop(event.stream_id, None)
            if request is not None:
                self._answer(http, event.stream_id, request)

    def _begin(self, event: HeadersReceived) -> None:
        headers = dict(event.headers)
        if b":method" in headers:  # trailers have none
            self._requests[event.stream_id] = _Request(headers[b":method"], headers.get(b":path", b"/"))

    def _take_body(self, http: H3Connection, stream_id: int, data: bytes) -> None:
        request = self._requests.get(stream_id)
        if request is None:
            return
        request.body += data
        if len(request.body) > MAX_ECHO_BYTES:
            del self._requests[stream_id]
            self._quic.stop_stream(stream_id, ErrorCode.H3_NO_ERROR)
            self._respond(http, stream_id, 413, b"a body may have %d octets\n" % MAX_ECHO_BYTES)

    def _answer(self, http: H3Connection, stream_id: int, request: _Request) -> None:
        sized = _SIZED_PATH.fullmatch(request.path.partition(b"?")[0])
        if request.method in (b"POST", b"PUT"):
            self._respond(http, stream_id, 200, bytes(request.body))
        elif request.method == b"HEAD":
            self._send_headers(http, stream_id, 200, None)
        elif request.method != b"GET":
            self._respond(http, stream_id, 405, b"GET, HEAD, POST or PUT\n")
        elif sized is None:
            self._respond(http, stream_id, 200, self._name + b"\n")
        elif int(sized[1]) > MAX_BODY_BYTES:
            self._respond(http, stream_id, 400, b"N may be %d at most\n" % MAX_BODY_BYTES)
        elif self._send_headers(http, stream_id, 200, int(sized[1])):
            self._octets_to_write[stream_id] = int(sized[1])

    def _respond(self, http: H3Connection, stream_id: int, status: int, body: bytes) -> None:
        if self._send_headers(http, stream_id, status, len(body)):
            http.send_data(stream_id, body, end_stream=True)

    def _send_headers(self, http: H3Connection, stream_id: int, status: int, length: int | None) -> bool:
        """Write the headers of an answer; return true if a body must follow and the client still wants it.

        length: octets of the body. None omits the header, in an answer to HEAD: aioquic's client treats a length
        without a body as an error.
        """
        if self._sender(stream_id) is None:
            return False
        headers = [(b":status", b"%d" % status), (b"x-backend", self._name)]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        http.send_headers(stream_id, headers, end_stream=not length)
        return bool(length)

    def _write_on(self) -> bool:
        """Write the next piece of each long answer whose last piece has been sent; return true if there was one."""
        drained = [
            stream_id
            for stream_id in self._octets_to_write
            if (sender := self._sender(stream_id)) is not None and sender.buffer_is_empty
        ]
        for stream_id in drained:
            self._write_piece(stream_id)
        return bool(drained)

    def _write_piece(self, stream_id: int) -> None:
        assert self._http is not None
        left = self._octets_to_write.pop(stream_id)
        piece = _CHUNK[:left]
        if left > len(piece):
            self._octets_to_write[stream_id] = left - len(piece)
        self._http.send_data(stream_id, piece, end_stream=left == len(piece))

    def _sender(self, stream_id: int) -> QuicStreamSender | None:
        """Return the sender of a stream; None if the client has given it up, because writing would then raise."""
        stream = self._quic._streams.get(stream_id)
        return None if stream is None or stream.sender._reset_error_code is not None else stream.sender

    def _abandon(self, stream_id: int) -> None:
        """Drop a request that will not be completed, or an answer that the client no longer wants."""
        self._octets_to_write.pop(stream_id, None)
        if self._requests.pop(stream_id, None) is not None:
            self._quic.reset_stream(stream_id, ErrorCode.H3_REQUEST_INCOMPLETE)

    def _limit_unparsed(self, http: H3Connection, stream_id: int) -> None:
        stream = http._stream.get(stream_id)
        if stream is not None and len(stream.buffer) > MAX_UNPARSED_BYTES:
            self._quic.close(error_code=ErrorCode.H3_EXCESSIVE_LOAD, reason_phrase="frame too long")
