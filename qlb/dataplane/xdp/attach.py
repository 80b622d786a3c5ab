"""The attachment of the program to an interface, and the pin with which it stays attached after the daemon ends."""

import ctypes
import errno
import fcntl
import os
import socket
import struct
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Final

from qlb.dataplane.xdp.libbpf import Link, program_id
from qlb.errors import PlaneUnavailable

BPF_FOLDER: Final = Path("/sys/fs/bpf")
_BPF_FS_MAGIC: Final = 0xCAFE4A11
_STATFS_BYTES: Final = 256
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GDRVINFO: Final = 3
_DRVINFO_BYTES: Final = 196


def index_of(interface: str) -> int:
    """Return an interface's index. Raises PlaneUnavailable if there is no such interface."""
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:
        raise PlaneUnavailable(f"there is no network interface {interface}") from error


def holds_back(interface: str) -> bool:
    """Return whether an interface may delay packets of XDP_TX until another packet leaves by it.

    A veth does so if its other end has no XDP program. It sends a packet that is redirected to it at once.
    """
    answer = ctypes.create_string_buffer(struct.pack("=I", _ETHTOOL_GDRVINFO), _DRVINFO_BYTES)
    request = struct.pack("16sP", interface.encode(), ctypes.addressof(answer)).ljust(40, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
        fcntl.ioctl(sock, _SIOCETHTOOL, request)
    return answer.raw[4:36].rstrip(b"\0") == b"veth"


def _is_here(index: int) -> bool:
    """Return whether an interface is in this network namespace: a program stays attached if it was moved away."""
    try:
        socket.if_indextoname(index)
    except OSError:
        return False
    return True


def attach(program: int, interface: str, where: str) -> Link:
    """Attach a program to an interface without one. where: auto, native or generic. Raises PlaneUnavailable."""
    index = index_of(interface)
    try:
        return Link.attach(program, index, where)
    except OSError as error:
        raise refusal(interface, where, error) from error


def refusal(interface: str, where: str, error: OSError) -> PlaneUnavailable:
    """Return the error for an interface to which the kernel attaches no program."""
    busy = error.errno in (errno.EBUSY, errno.EEXIST)
    why = "it has another XDP program" if busy else error.strerror
    return PlaneUnavailable(f"no XDP program can be attached to {interface} ({where}): {why}")


class Loss(Enum):
    """The ways in which an interface loses the program without an action of qlb."""

    DETACHED = "detached"
    """A program such as bpftool has detached it, or the interface was removed."""
    REPLACED = "replaced"
    """Another program has replaced it on the same link, as another qlb process does."""


class Attachment:
    """The program on one interface."""

    def __init__(self, interface: str, *, keep: bool) -> None:
        """Find the interface. keep: close() leaves the program attached. Raises PlaneUnavailable."""
        self.index = index_of(interface)
        self.interface = interface
        self._keep = keep
        self._pin = _pin_of(interface)
        self._link: Link | None = None

    def put(self, program: int, where: str) -> None:
        """Attach a program, or replace the current one or the one that an earlier process left.

        A replacement happens between two packets. where: auto, native or generic; for a new attachment.
        Raises PlaneUnavailable.
        """
        try:
            if self._link is None:
                self._link = Link.open_pinned(self._pin)
            if self._link is not None:
                self._update(program)
            if self._link is None:
                self._link = attach(program, self.interface, where)
            if self._keep and not self._pin.exists():
                _make_folder(self._pin.parent)
                self._link.pin(self._pin)
        except OSError as error:
            raise refusal(self.interface, where, error) from error

    def is_left(self) -> bool:
        """Return whether put() would replace a program that an earlier process left."""
        return self._link is None and self._pin.exists()

    def find_loss(self, program: int) -> Loss | None:
        """Return how the interface has lost the program since put(); None if it has not. Raises OSError."""
        if self._link is None or not _is_here(self.index):
            return Loss.DETACHED
        index, attached = self._link.on()
        if index != self.index:
            return Loss.DETACHED
        return None if attached == program_id(program) else Loss.REPLACED

    def restore(self, program: int, where: str) -> None:
        """Attach the program again after a loss, or to a new interface of the same name. Raises PlaneUnavailable."""
        if self._link is not None:
            self._pin.unlink(missing_ok=True)
            self._link.close()
            self._link = None
        self.index = index_of(self.interface)
        self.put(program, where)

    def _update(self, program: int) -> None:
        assert self._link is not None, "the caller has checked it"
        try:
            self._link.update(program)
        except OSError as error:
            if error.errno != errno.ENOLINK:
                raise
            # The old interface was removed; this one only has the same name.
            self._pin.unlink(missing_ok=True)
            self._link.close()
            self._link = None

    def close(self) -> None:
        """Detach the program, unless `keep` was set."""
        if self._link is None:
            return
        if not self._keep:
            self._pin.unlink(missing_ok=True)
        self._link.close()
        self._link = None


def detach(interface: str) -> bool:
    """Detach the program that a process left on an interface. Return False if there is none."""
    pin = _pin_of(interface)
    if not pin.exists():
        return False
    pin.unlink()
    return True


def _pin_of(interface: str) -> Path:
    """Return the path of an interface's pin. Other network namespaces may have interfaces of the same name."""
    namespace = Path("/proc/self/ns/net").stat().st_ino
    return BPF_FOLDER / "qlb" / f"{namespace}-{interface}"


def _make_folder(folder: Path) -> None:
    """Create a folder in the BPF file system, and mount that first if necessary. Raises OSError."""
    if folder.is_dir() and _is_bpf_fs(folder):
        return  # a service manager may allow the daemon only this folder
    libc = ctypes.CDLL(None, use_errno=True)
    if not _is_bpf_fs(BPF_FOLDER) and libc.mount(b"bpf", os.fsencode(BPF_FOLDER), b"bpf", 0, None):
        raise OSError(ctypes.get_errno(), f"{BPF_FOLDER} is not a BPF file system, and none can be mounted there")
    folder.mkdir(mode=0o700, exist_ok=True)


def _is_bpf_fs(folder: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    status = ctypes.create_string_buffer(_STATFS_BYTES)
    if libc.statfs(os.fsencode(folder), status):
        raise OSError(ctypes.get_errno(), f"{folder} does not exist")
    return ctypes.c_uint32.from_buffer(status).value == _BPF_FS_MAGIC
