"""A fake service manager: it receives messages, stores descriptors, and returns them."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_MAX_BYTES = 4096
_MAX_DESCRIPTORS = 16


class Manager:
    """Listens on the socket of NOTIFY_SOCKET. store: name → the stored descriptors."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        """Use managing() instead."""
        self._sock = sock
        self.name = name
        self.messages: list[dict[str, str]] = []
        self.store: dict[str, list[int]] = {}

    def receive(self) -> list[dict[str, str]]:
        """Receive the messages that wait. Return all messages so far."""
        while True:
            try:
                octets, descriptors, _, _ = socket.recv_fds(self._sock, _MAX_BYTES, _MAX_DESCRIPTORS)
            except BlockingIOError:
                return self.messages
            message = dict(line.split("=", 1) for line in octets.decode().splitlines())
            self.messages.append(message)
            self._store(message, descriptors)

    def values(self, field: str) -> list[str]:
        """Return the values of a field in all messages so far, in order."""
        return [message[field] for message in self.receive() if field in message]

    def descriptors(self) -> list[tuple[str, int]]:
        """Return copies of the stored descriptors with their names, for a new process."""
        self.receive()
        return [(name, os.dup(one)) for name, descriptors in sorted(self.store.items()) for one in descriptors]

    def close(self) -> None:
        """Close all stored descriptors and the socket."""
        for descriptors in self.store.values():
            for one in descriptors:
                os.close(one)
        self.store.clear()
        self._sock.close()

    def _store(self, message: Mapping[str, str], descriptors: list[int]) -> None:
        if "FDSTOREREMOVE" in message:
            for one in self.store.pop(message["FDNAME"], ()):
                os.close(one)
        stored = self.store.setdefault(message["FDNAME"], []) if "FDSTORE" in message else []
        for one in descriptors:
            if any(os.path.sameopenfile(one, other) for other in stored):  # as systemd does
                os.close(one)
            else:
                stored.append(one)


@contextmanager
def managing(folder: Path, *, abstract: bool = False) -> Iterator[Manager]:
    """Run a manager until the end of the block. abstract: use an abstract socket name instead of a file."""
    name = f"@qlb-test-{os.getpid()}-{folder.name}" if abstract else str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(f"\0{name[1:]}" if abstract else name)
        manager = Manager(sock, name)
        try:
            yield manager
        finally:
            manager.close()
