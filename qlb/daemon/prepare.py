"""Preparing a reload: read, parse, check and try a configuration. Slow, and without any effect on what runs."""

import asyncio
import copyreg
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from qlb.config.load import Loaded, load
from qlb.config.model import Config, read_only
from qlb.daemon.compiling import JobFailed, run_job
from qlb.daemon.file_watch import Look, look_at
from qlb.daemon.preflight import preflight
from qlb.errors import ConfigError, QlbError
from qlb.local_addresses import local_hosts

IN_THREAD_BYTES: Final = 1 << 16
"""Size of a file up to which a thread reads it: some 700 backends, 0.2 s. A process takes 0.4 s to start."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The result. loaded: None where it is wrong, and problems says why.

    looks: every file that the configuration is made of or names, as it was before it was read.
    may_pass: only this machine cannot run it for now, so that a later try can succeed without a change.
    """

    loaded: Loaded | None
    problems: tuple[str, ...]
    looks: Mapping[Path, Look]
    may_pass: bool = False


async def prepare_aside(path: Path, running: Config) -> Prepared:
    """Prepare without holding up the event loop: a large file in a process of its own.

    running: only what a reload cannot change is compared with it.
    """
    frame = running.model_copy(update={"backends": (), "discovery": (), "cid_configs": ()})
    try:
        size = (await asyncio.to_thread(path.stat)).st_size
    except (OSError, ValueError):
        size = 0
    if size <= IN_THREAD_BYTES:
        return await asyncio.to_thread(prepare, path, frame)
    try:
        packed = await run_job(_prepare_packed, path, _packed(frame))
    except JobFailed as error:
        return Prepared(None, (f"{path} could not be read: {error}",), {path: look_at(path)}, may_pass=True)
    prepared: Prepared = await asyncio.to_thread(pickle.loads, packed)
    return prepared


def prepare(path: Path, running: Config) -> Prepared:
    """Read a configuration and try whether it can run here. Does not raise."""
    looks: dict[Path, Look] = {}

    def look(named: Path) -> None:
        looks.setdefault(named, look_at(named))

    try:
        loaded = load(path, running=running, before_reading=look, find_local=local_hosts)
    except ConfigError as error:
        return Prepared(None, error.problems, looks)
    try:
        preflight(loaded.config)
    except QlbError as error:
        return Prepared(None, getattr(error, "problems", (str(error),)), looks, may_pass=True)
    return Prepared(loaded, (), looks)


def _prepare_packed(path: Path, frame: bytes) -> bytes:
    return _packed(prepare(path, pickle.loads(frame)))  # noqa: S301 (from this program itself)


def _packed(value: object) -> bytes:
    """Pickle what holds configurations: they have read-only mappings, which pickle does not know."""
    octets = io.BytesIO()
    pickler = pickle.Pickler(octets)
    pickler.dispatch_table = {**copyreg.dispatch_table, MappingProxyType: _reduce}
    pickler.dump(value)
    return octets.getvalue()


def _reduce(mapping: MappingProxyType[int, tuple[bytes, ...]]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return read_only, (dict(mapping),)
