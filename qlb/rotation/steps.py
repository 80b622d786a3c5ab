"""The steps of a rotation as changes of files: the configuration's text, and a new key's file.

A step is made up first (next_step, abort) and done afterwards (write), so that it can be shown and not done. Files are
replaced whole: whoever reads one reads it as it was or as it is.
"""

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from qlb.config.load import decode, load
from qlb.config.model import CidConfig, CidState
from qlb.errors import QlbError
from qlb.rotation import edits
from qlb.rotation.phases import (
    Balancer,
    Parts,
    against_issuing,
    against_removing,
    against_unstaging,
    choose_config_id,
    read_parts,
)


class StepRefused(QlbError):
    """The next step is not safe yet; the text says why, a reason a line."""


class KeyFile(NamedTuple):
    """A key and where it is to stand; nothing is there yet."""

    path: Path
    key: bytes


class Step(NamedTuple):
    """What the configuration's text is to become, and what to tell the operator then. key_file: to be written first."""

    text: str
    said: tuple[str, ...]
    key_file: KeyFile | None = None


class RotationSteps:
    """The rotation of one configuration file as it is now."""

    def __init__(
        self,
        path: Path,
        ask: Callable[[], Sequence[Balancer]],
        old_id: int | None = None,
        *,
        new_id: int | None = None,
        force: bool = False,
    ) -> None:
        """ask: returns what every balancer says of itself, or raises. old_id: what to replace, if several are active.

        new_id: the config ID of a new configuration; None to choose one. force: do what packets alone speak against.
        Raises ConfigError where the file is wrong, QlbError where it cannot be told what takes part.
        """
        self.config = load(path).config
        self.path = Path(os.path.realpath(path))
        self.text = decode(self.path.read_bytes(), path)
        self.parts: Parts = read_parts(self.config, old_id)
        self._ask = ask
        self._new_id = new_id
        self._force = force

    def next_step(self) -> Step:
        """Return the next step. Raises StepRefused where it is not safe yet, QlbError where that is not known."""
        if self.parts.staged is not None:
            return self._issue(self.parts.staged, self.parts.old)
        if self.parts.retiring:
            return self._remove(self.parts.retiring[0])
        return self._introduce(self.parts.old[0])

    def abort(self) -> Step:
        """Return the way back: a staged configuration goes, a retiring one is active again. Raises as next_step()."""
        if self.parts.staged is not None:
            return self._unstage(self.parts.staged)
        if not self.parts.retiring:
            raise QlbError("no rotation is under way: there is nothing to take back")
        back, away = self.parts.retiring[0].config_id, [one.config_id for one in self.parts.old]
        states: dict[int, CidState] = {back: "active", **dict.fromkeys(away, "retiring")}
        said = (f"config {back} is active again, config {_listed(away)} retires", *self._servers(back))
        return Step(edits.set_states(self.text, self.path, states), said)

    def write(self, step: Step) -> None:
        """Do a step. Raises QlbError, with nothing changed, where a file cannot be written."""
        try:
            if step.key_file is not None:
                _write_key(step.key_file)
            _replace(self.path, step.text)
        except OSError as error:
            if step.key_file is not None:
                step.key_file.path.unlink(missing_ok=True)
            raise QlbError(f"{error.filename or self.path} cannot be written: {error.strerror}") from error

    def take_back(self, step: Step) -> None:
        """Make the files what they were before a step."""
        _replace(self.path, self.text)
        if step.key_file is not None:
            step.key_file.path.unlink()

    def _introduce(self, old: CidConfig) -> Step:
        new_id, warnings = choose_config_id(self.config, self._ask(), self._new_id, force=self._force)
        key = secrets.token_bytes(16)
        inline = old.key is not None and old.key_file is None
        key_file = None if inline else KeyFile(self._unused_key_path(old, new_id), key)
        named = Path(os.path.relpath(key_file.path, self.path.parent)) if key_file is not None else None
        new = old.model_copy(update={"config_id": new_id, "key": key, "key_file": named, "state": "staged"})
        with _there_for_now(key_file):  # the edited text is loaded, and loading reads it
            text = edits.introduce(self.text, self.path, new, old.config_id, self._server_ids(old))
        said = (
            f"config {new_id} with a new key is staged beside config {old.config_id} in {self.path}",
            *(f"note: {warning}" for warning in warnings),
            "next: give this file and its keys to every balancer and reload them; then run this again",
        )
        return Step(text, said, key_file)

    def _issue(self, staged: CidConfig, old: Sequence[CidConfig]) -> Step:
        _refuse(against_issuing(self.config, staged, self._ask()))
        going = [one.config_id for one in old]
        states: dict[int, CidState] = {staged.config_id: "active", **dict.fromkeys(going, "retiring")}
        said = (
            f"config {staged.config_id} is active, config {_listed(going)} retires",
            *self._servers(staged.config_id),
            f"then run this again, when no packet has carried config {_listed(going)} for "
            f"{self.config.rotation.quiet_period:g} s",
        )
        return Step(edits.set_states(self.text, self.path, states), said)

    def _remove(self, going: CidConfig) -> Step:
        if not self._force:
            _refuse(against_removing(self.config, going, self._ask()))
        said = [f"config {going.config_id} is gone from {self.path}: give it to every balancer and reload them"]
        if going.key_file is not None:
            said.append(f"when all have it, nobody needs {going.key_file} any more")
        return Step(edits.remove(self.text, self.path, going.config_id), tuple(said))

    def _unstage(self, staged: CidConfig) -> Step:
        if not self._force:
            _refuse(against_unstaging(staged, self._ask()))
        said = f"config {staged.config_id} is gone from {self.path}: give it to every balancer and reload them"
        return Step(edits.remove(self.text, self.path, staged.config_id), (said,))

    def _unused_key_path(self, old: CidConfig, new_id: int) -> Path:
        """Return a name beside the old key's that nothing has yet."""
        folder = old.key_file.parent if old.key_file is not None else self.path.parent / "keys"
        names = (f"{new_id}.hex", *(f"{new_id}-{number}.hex" for number in range(2, 1000)))
        return next(folder / name for name in names if not (folder / name).exists())

    def _server_ids(self, old: CidConfig) -> dict[str, tuple[bytes, ...]]:
        """Return the backends' server IDs under a new configuration.

        Those that they have, if the old one encrypts them too; else fresh ones: the clear ones are known, and would
        help to attack the encrypted ones.
        """
        pool = {b.name: b.server_ids[old.config_id] for b in self.config.backends if old.config_id in b.server_ids}
        if old.key is not None:
            return pool
        fresh: set[bytes] = set()
        while len(fresh) < sum(map(len, pool.values())):
            fresh.add(secrets.token_bytes(old.server_id_length))
        return {name: tuple(fresh.pop() for _ in ids) for name, ids in pool.items()}

    def _servers(self, config_id: int) -> tuple[str, ...]:
        names = [backend.name for backend in self.config.backends if config_id in backend.server_ids]
        return ("next: give every server what it must load:", *(f"  qlb server-config {self.path} {n}" for n in names))


def _refuse(problems: Iterator[str]) -> None:
    found = tuple(problems)
    if found:
        raise StepRefused("\n".join(found))


def _replace(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        before = path.stat()
        os.fchmod(descriptor, before.st_mode & 0o7777)
        if os.geteuid() == 0:
            os.fchown(descriptor, before.st_uid, before.st_gid)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    Path(name).replace(path)


def _write_key(key_file: KeyFile) -> None:
    """Write a key for its owner alone. Raises FileExistsError where something is there."""
    key_file.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(key_file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{key_file.key.hex()}\n")


@contextmanager
def _there_for_now(key_file: KeyFile | None) -> Iterator[None]:
    if key_file is None:
        yield
        return
    try:
        _write_key(key_file)
    except OSError as error:
        raise QlbError(f"{key_file.path} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        key_file.path.unlink()


def _listed(config_ids: Sequence[int]) -> str:
    return ", ".join(map(str, config_ids)) or "none"
