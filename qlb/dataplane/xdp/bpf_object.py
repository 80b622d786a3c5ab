"""BPF objects and their maps, through libbpf."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Final

from qlb.dataplane.xdp.libbpf import check, last_error, library, possible_cpus

_LOG_BYTES: Final = 1 << 20
_FAILURE_LOG_BYTES: Final = 1 << 16
_VERIFIER_STATISTICS: Final = 4


class _MapCreate(ctypes.Structure):
    """struct bpf_map_create_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    )


class BpfObject:
    """A compiled object. States: opened, then loaded with all its maps and programs, then closed."""

    def __init__(self, octets: bytes, *, log: bool = False) -> None:
        """Open an object. octets: the ELF file. log: record the verifier's statistics for verifier_log()."""
        self._library = library()
        self._octets = octets
        handle = self._library.bpf_object__open_mem(octets, ctypes.c_size_t(len(octets)), None)
        if not handle:
            raise last_error("the BPF object cannot be read")
        self._handle = ctypes.c_void_p(handle)
        self._logs: dict[str, ctypes.Array[ctypes.c_char]] = {}
        self._log = log

    def __enter__(self) -> BpfObject:
        """Return the object."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the object."""
        self.close()

    def resize(self, entries: Mapping[str, int]) -> None:
        """Set the number of elements of maps; before load(). Raises OSError."""
        for name, count in entries.items():
            check(self._library.bpf_map__set_max_entries(self._map(name), ctypes.c_uint32(count)), name)

    def share(self, maps: Mapping[str, BpfMap]) -> None:
        """Use existing maps instead of new ones; before load(). Raises OSError."""
        for name, existing in maps.items():
            check(self._library.bpf_map__reuse_fd(self._map(name), existing.fd), name)

    def set_constants(self, section: str, octets: bytes) -> None:
        """Set the values of a read-only data section; before load(). Raises OSError if the size differs."""
        size = ctypes.c_size_t(len(octets))
        check(self._library.bpf_map__set_initial_value(self._map(section), octets, size), section)

    def load(self) -> None:
        """Create the maps and load the programs. Raises OSError with the last lines of the verifier's log."""
        at = self._library.bpf_object__next_program(self._handle, None)
        while at:
            self._prepare(ctypes.c_void_p(at))
            at = self._library.bpf_object__next_program(self._handle, ctypes.c_void_p(at))
        failed = self._library.bpf_object__load(self._handle)
        if failed:
            lines = [log.value.decode(errors="replace").strip() for log in self._logs.values()]
            tail = "\n".join(line for text in lines if text for line in text.splitlines()[-20:])
            raise OSError(-failed, f"the kernel refuses the program: {os.strerror(-failed)}\n{tail}".strip())

    def _prepare(self, program: ctypes.c_void_p) -> None:
        get_name = self._library.bpf_program__name
        get_name.restype = ctypes.c_char_p
        name = get_name(program).decode()
        log = ctypes.create_string_buffer(_LOG_BYTES if self._log else _FAILURE_LOG_BYTES)
        self._logs[name] = log
        self._library.bpf_program__set_log_buf(program, log, ctypes.c_size_t(len(log)))
        if self._log:
            self._library.bpf_program__set_log_level(program, ctypes.c_uint32(_VERIFIER_STATISTICS))

    def verifier_log(self, program: str) -> str:
        """Return the verifier's log of a loaded program."""
        return self._logs[program].value.decode(errors="replace")

    def map(self, name: str) -> BpfMap:
        """Return a map of a loaded object."""
        at, sizes = self._map(name), []
        for size in ("key_size", "value_size", "max_entries"):
            read = getattr(self._library, f"bpf_map__{size}")
            read.restype = ctypes.c_uint32
            sizes.append(int(read(at)))
        return BpfMap(int(self._library.bpf_map__fd(at)), *sizes)

    def program(self, name: str) -> int:
        """Return the descriptor of a loaded program."""
        handle = self._library.bpf_object__find_program_by_name(self._handle, name.encode())
        if not handle:
            raise last_error(f"no program {name}")
        return int(self._library.bpf_program__fd(ctypes.c_void_p(handle)))

    def close(self) -> None:
        """Close all descriptors. Attached programs and pinned links stay."""
        if self._handle:
            self._library.bpf_object__close(self._handle)
            self._handle = ctypes.c_void_p(None)

    def _map(self, name: str) -> ctypes.c_void_p:
        handle = self._library.bpf_object__find_map_by_name(self._handle, name.encode())
        if not handle:
            raise last_error(f"no map {name}")
        return ctypes.c_void_p(handle)


class BpfMap:
    """One map. fd: owned by its object, or by the caller of create_array(). Sizes in octets."""

    def __init__(self, fd: int, key_size: int, value_size: int, max_entries: int) -> None:
        """Use BpfObject.map() or create_array()."""
        self.fd = fd
        self.key_size = key_size
        self.value_size = value_size
        self.max_entries = max_entries

    @classmethod
    def create_array(cls, name: str, value_size: int, max_entries: int) -> BpfMap:
        """Create an array outside any object. Raises OSError."""
        map_type_array = 2
        options = _MapCreate(sz=ctypes.sizeof(_MapCreate))
        fd = library().bpf_map_create(map_type_array, name.encode(), 4, value_size, max_entries, ctypes.byref(options))
        check(fd, name)
        return cls(fd, 4, value_size, max_entries)

    def set(self, key: bytes, value: bytes) -> None:
        """Set one element. Raises OSError."""
        check(library().bpf_map_update_elem(self.fd, key, value, ctypes.c_uint64(0)), "map update")

    def get(self, key: bytes) -> bytes | None:
        """Return one element; None if it does not exist. Not for per-CPU maps."""
        value = ctypes.create_string_buffer(self.value_size)
        return None if library().bpf_map_lookup_elem(self.fd, key, value) else value.raw

    def delete(self, key: bytes) -> None:
        """Delete an element; a missing one is not an error. Raises OSError."""
        if library().bpf_map_delete_elem(self.fd, key) < 0 and ctypes.get_errno() != errno.ENOENT:
            raise last_error("map update")

    def write(self, first: int, octets: bytes) -> None:
        """Set consecutive whole elements of an array, from an index on. Raises OSError."""
        count = len(octets) // self.value_size
        if not count:
            return
        keys = struct.pack(f"={count}I", *range(first, first + count))
        done = ctypes.c_uint32(count)
        check(library().bpf_map_update_batch(self.fd, keys, octets, ctypes.byref(done), None), "map update")

    def read_per_cpu(self) -> memoryview:
        """Return all elements of a per-CPU array as 64-bit integers, CPU after CPU in each element. Raises OSError."""
        size = self.value_size * possible_cpus() * self.max_entries
        values, keys = ctypes.create_string_buffer(size), ctypes.create_string_buffer(4 * self.max_entries)
        after, count = ctypes.c_uint32(0), ctypes.c_uint32(self.max_entries)
        failed = library().bpf_map_lookup_batch(
            self.fd, None, ctypes.byref(after), keys, values, ctypes.byref(count), None
        )
        if failed and ctypes.get_errno() != errno.ENOENT:  # the end of the map
            raise last_error("map lookup")
        return memoryview(values).cast("B").cast("Q")

    def close(self) -> None:
        """Close the descriptor of a map from create_array()."""
        os.close(self.fd)
