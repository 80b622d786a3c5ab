"""A service manager, as far as the daemon sees one: it is told things, keeps descriptors, and gives them back."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_MAX_BYTES = 4096
_MAX_DESCRIPTORS = 16


class Manager:
    """Listens where NOTIFY_SOCKET points to. store: name → the descriptors that it keeps."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        """Use managing() instead."""
        self._sock = sock
        self.name = name
        self.messages: list[dict[str, str]] = []
        self.store: dict[str, list[int]] = {}

    def hear(self) -> list[dict[str, str]]:
        """Take in what was said until now; return all that was ever said."""
        while True:
            try:
                octets, descriptors, _, _ = socket.recv_fds(self._sock, _MAX_BYTES, _MAX_DESCRIPTORS)
            except BlockingIOError:
                return self.messages
            message = dict(line.split("=", 1) for line in octets.decode().splitlines())
            self.messages.append(message)
            self._keep(message, descriptors)

    def said(self, field: str) -> list[str]:
        """Return what was said in a field, one after the other."""
        return [message[field] for message in self.hear() if field in message]

    def descriptors(self) -> list[tuple[str, int]]:
        """Return what is kept: copies, for a process to come."""
        self.hear()
        return [(name, os.dup(one)) for name, several in sorted(self.store.items()) for one in several]

    def close(self) -> None:
        """Keep nothing any more."""
        for several in self.store.values():
            for one in several:
                os.close(one)
        self.store.clear()
        self._sock.close()

    def _keep(self, message: Mapping[str, str], descriptors: list[int]) -> None:
        if "FDSTOREREMOVE" in message:
            for one in self.store.pop(message["FDNAME"], ()):
                os.close(one)
        kept = self.store.setdefault(message["FDNAME"], []) if "FDSTORE" in message else []
        for one in descriptors:
            if any(os.path.sameopenfile(one, other) for other in kept):  # as systemd does
                os.close(one)
            else:
                kept.append(one)


@contextmanager
def managing(folder: Path, *, abstract: bool = False) -> Iterator[Manager]:
    """Be a manager until the end of the block. abstract: at a name that is no file."""
    name = f"@qlb-test-{os.getpid()}-{folder.name}" if abstract else str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(f"\0{name[1:]}" if abstract else name)
        manager = Manager(sock, name)
        try:
            yield manager
        finally:
            manager.close()
