"""Load a configuration: return it with its warnings, or raise one error with all problems.

The package's docstring lists the steps. Problems are collected up to the key files and raised together. Only a file
that cannot be read, or is not YAML, ends the checks earlier.
"""

import codecs
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from qlb.config.advice import advise
from qlb.config.credentials import key_path
from qlb.config.key_files import check_kubeconfigs, read_keys, stand_in_keys
from qlb.config.model import Config, DiscoverySource
from qlb.config.partial import named_files, read_draft
from qlb.config.problems import START, Problems
from qlb.config.rules import check, check_references, socket_path
from qlb.config.source_rules import check_sources
from qlb.config.tree import MappingNode, locate, parse, position
from qlb.config.validate import Steps, known_keys, validate
from qlb.local_addresses import FindLocal

NEEDS_RESTART: Final = (
    ("listen",),
    ("forwarding", "plane"),
    ("forwarding", "mode"),
    ("forwarding", "workers"),
    ("forwarding", "pin_workers"),
    ("forwarding", "receive_buffer"),
    ("forwarding", "send_buffer"),
    ("forwarding", "freebind"),
    ("forwarding", "interfaces"),
    ("forwarding", "attach"),
    ("forwarding", "keep_attached"),
    ("admin", "listen"),
    ("admin", "socket"),
)
"""The keys that only a restart can change, each as a path."""
_OF_THE_MACHINE: Final = (
    ("forwarding", "plane"),
    ("forwarding", "mode"),
    ("forwarding", "pin_workers"),
    ("health", "probe"),
    ("admin", "listen"),
)
"""The keys whose values may be valid here and invalid on another machine, besides `listen` and `discovery`."""


def check_restart(config: Config, running: Config, root: MappingNode, problems: Problems) -> None:
    """Add a problem for each key that differs from the running configuration and that only a restart can change."""
    for steps in NEEDS_RESTART:
        if _value(config, steps) != _value(running, steps):
            _, _, mark = locate(root, steps)
            text = "cannot change by a reload: run `qlb upgrade`, which loses no packet, or restore the old value"
            problems.add(mark, f"{'.'.join(steps)} {text}")


def _value(config: Config, steps: tuple[str, ...]) -> object:
    value: object = config
    for step in steps:
        value = getattr(value, step)
    return value


def read_regular_file(path: Path, max_bytes: int) -> tuple[bytes, int]:
    """Return the content of a regular file and its mode. max_bytes: the largest size to accept, octets.

    Raises OSError if the file cannot be opened; ValueError if it is not a regular file or is larger than max_bytes.
    """
    # Check before opening, because opening a device can have effects (a watchdog starts, a tape is rewound).
    _require_regular(path.stat().st_mode)
    # O_NONBLOCK, because the file may have been replaced by a pipe since, and opening that would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _require_regular(status.st_mode)
        content = file.read(max_bytes + 1) if status.st_size <= max_bytes else b""
    if status.st_size > max_bytes or len(content) > max_bytes:
        raise ValueError(f"the file has more than {_size(max_bytes)}")
    return content, status.st_mode


def _require_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise ValueError("it is a directory, not a file")
    if not stat.S_ISREG(mode):
        raise ValueError("it is not a regular file but a pipe, a socket or a device; write the text to a file first")


def _size(octets: int) -> str:
    return f"{octets >> 20} MiB" if octets >= 1 << 20 else f"{octets} octets"


MAX_FILE_BYTES: Final = 64 << 20
"""Octets of the largest configuration. 65,536 backends with every key need a quarter of it."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration with its warnings.

    warnings: each ``FILE:LINE:COLUMN: message``, in the order of the file. places: by path, the position of each key
    that depends on the machine, as ``FILE:LINE:COLUMN``.
    """

    config: Config
    warnings: tuple[str, ...]
    places: Mapping[str, str]

    def at(self, path: str, text: str) -> str:
        """Return a text about a key, with the position of the key in front. path: such as ``health.probe``."""
        return f"{self.places[path]}: {text}"


def load(
    path: Path,
    *,
    running: Config | None = None,
    with_keys: bool = True,
    before_reading: Callable[[Path], None] | None = None,
    find_local: FindLocal | None = None,
) -> Loaded:
    """Read and check a configuration file and the key files that it names.

    running: the configuration of a running daemon that will apply this one; changes that need a restart are then
    problems too. with_keys: if false, key files and kubeconfigs are not read, and placeholders replace the keys; the
    result can be checked but must not forward packets. before_reading: called for each file that the configuration
    consists of or names, before it is read and even if the configuration is invalid. find_local: finds the addresses
    of this machine, if this machine will run the configuration; a backend whose packets would come back to the daemon
    is then a problem too.
    Raises ConfigError with all problems.
    """
    problems = Problems(path)
    if before_reading is not None:
        before_reading(path)
    content, mode = read_octets(path, problems)
    exposed = bool(mode & stat.S_IROTH)
    return _load(
        decode(content, path),
        problems,
        exposed=exposed,
        running=running,
        with_keys=with_keys,
        before_reading=before_reading,
        find_local=find_local,
    )


def load_text(text: str, path: Path, *, with_keys: bool = True) -> Loaded:
    """Check the text of a configuration. path: its name in messages; relative paths are relative to its folder.

    with_keys: as for load(). Raises ConfigError with all problems.
    """
    return _load(text, Problems(path), exposed=False, with_keys=with_keys)


def load_interfaces(path: Path) -> tuple[str, ...]:
    """Return the interfaces that a configuration names, without key files: those may be removed with the daemon.

    Raises ConfigError with the problems of all fields. Rules between fields are not checked.
    """
    problems = Problems(path)
    root = known_keys(parse(decode(read_octets(path, problems)[0], path), problems), problems)
    config = validate(root, problems)
    problems.raise_if_any()
    assert config is not None, "no configuration means a problem"
    return config.forwarding.interfaces


def decode(content: bytes, path: Path) -> str:
    """Return the text of a file: UTF-8, with or without a byte order mark.

    Raises ConfigError with the position of the first invalid octet.
    """
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        start = error.start
    before = content[:start].decode()
    text = f"not UTF-8 text (octet 0x{content[start]:02x}): save the file as UTF-8"
    raise Problems(path).failure(position(before, len(before)), text)


def read_octets(path: Path, problems: Problems) -> tuple[bytes, int]:
    """Return the content of the file and its mode. Raises ConfigError if it cannot be read.

    Never blocks: a pipe, a device or a folder is rejected before it is opened or read.
    """
    try:
        return read_regular_file(path, MAX_FILE_BYTES)
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:
        reason = str(error)
    raise problems.failure(START, f"cannot be read: {reason}")


def _load(
    text: str,
    problems: Problems,
    *,
    exposed: bool,
    running: Config | None = None,
    with_keys: bool = True,
    find_local: FindLocal | None = None,
    before_reading: Callable[[Path], None] | None = None,
) -> Loaded:
    """Run all steps from the text on. exposed: every user of this machine can read the file."""
    folder = problems.path.parent
    root = known_keys(parse(text, problems), problems)
    config = validate(root, problems)
    problems.raise_if_too_many()
    draft = read_draft(root)
    check(draft, folder, problems, find_local, is_running=running is not None)
    check_references(draft, problems)
    check_sources(draft, problems)
    if before_reading is not None:
        for named in named_files(draft, folder):
            before_reading(named)
    keys = read_keys(draft, folder, problems) if with_keys else stand_in_keys(draft)
    problems.raise_if_any()
    assert config is not None, "no configuration means a problem"
    config = _complete(config, folder, keys)
    if with_keys:
        check_kubeconfigs(config, root, problems)
    problems.raise_if_any()
    if running is not None:
        check_restart(config, running, root, problems)
        problems.raise_if_any()
    warnings = Problems(problems.path, "warnings")
    advise(config, root, warnings, exposed=exposed)
    return Loaded(config, warnings.lines(), dict(_places(config, root, problems.path)))


def _places(config: Config, root: MappingNode, file: Path) -> Iterator[tuple[str, str]]:
    """Yield path and position of each key that depends on the machine; the nearest section if the key is absent."""
    lists = (("listen", len(config.listen)), ("discovery", len(config.discovery)))
    items: list[tuple[str, Steps]] = [(f"{name}[{n}]", (name, n)) for name, count in lists for n in range(count)]
    for path, steps in (*((".".join(steps), steps) for steps in _OF_THE_MACHINE), *items):
        mark = locate(root, steps)[2]
        yield path, f"{file}:{mark.line}:{mark.column}"


def _complete(config: Config, folder: Path, keys: dict[Path, bytes]) -> Config:
    """Insert the keys of key files, and make paths independent of the working directory."""
    cid_configs = tuple(
        one if one.key_file is None else replace(one, key=keys[one.key_file], key_file=key_path(folder, one.key_file))
        for one in config.cid_configs
    )
    fallback, admin = config.fallback, config.admin
    if (file := fallback.hash_key_file) is not None:
        fallback = replace(fallback, hash_key=keys[file], hash_key_file=key_path(folder, file))
    if isinstance(admin.socket, Path):
        admin = replace(admin, socket=socket_path(folder, admin.socket))
    sources = tuple(_source(folder, one) for one in config.discovery)
    return replace(config, cid_configs=cid_configs, fallback=fallback, admin=admin, discovery=sources)


def _source(folder: Path, one: DiscoverySource) -> DiscoverySource:
    return replace(one, file=_absolute(folder, one.file), kubeconfig=_absolute(folder, one.kubeconfig))


def _absolute(folder: Path, path: Path | None) -> Path | None:
    return None if path is None else (folder / path).absolute()
