"""A complete HTTP/3 server behind qlb. Its arguments are a file and a port: agent-a.yaml 5001.

The file is the output of `qlb server-config edge.yaml agent-a`. The server follows its changes.
"""

import asyncio
import contextlib
import logging
import sys
from pathlib import Path

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent

from qlb.adapters.aioquic import serve
from qlb.cid import RotatingCidGenerator
from qlb.demo.http3 import make_certificate


class Hello(QuicConnectionProtocol):
    """One connection: answers each request with the name of this server."""

    http: H3Connection | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        """Answer the requests that have arrived."""
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self._quic)
        if self.http is not None:
            for request in self.http.handle_event(event):
                if isinstance(request, HeadersReceived):
                    headers = [(b":status", b"200"), (b"x-backend", NAME)]
                    self.http.send_headers(request.stream_id, headers)
                    self.http.send_data(request.stream_id, NAME + b"\n", end_stream=True)


async def main() -> None:
    """Serve until Ctrl-C."""
    quic = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    # In your service: quic.load_cert_chain("certificate.pem", "key.pem")
    quic.certificate, quic.private_key = make_certificate()
    ids = RotatingCidGenerator.from_file(FILE)
    await serve("127.0.0.1", PORT, configuration=quic, generator=ids, create_protocol=Hello)
    await asyncio.Event().wait()


if __name__ == "__main__":
    FILE, PORT = Path(sys.argv[1]), int(sys.argv[2])
    NAME = FILE.stem.encode()
    logging.basicConfig()
    logging.getLogger("qlb").setLevel(logging.INFO)  # reports each rotation
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
