"""The steps of a rotation as changes of files: the configuration, and the file of a new key.

next_step() and abort() only compute a step, so that it can be shown first; write() does it. A file is replaced as a
whole, so that a reader gets either the old content or the new one.
"""

import difflib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from qlb.config.load import decode, load
from qlb.config.model import CidConfig, CidState
from qlb.errors import QlbError
from qlb.rotation import edits
from qlb.rotation.keys import new_key, write_key
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
    """The next step is not safe yet. The text has one reason on each line."""


class KeyFile(NamedTuple):
    """A new key and the path of its file, which does not exist yet."""

    path: Path
    key: bytes


class Step(NamedTuple):
    """A step that has been computed but not done.

    text: of the changed configuration. summary: the state after the step. instructions: the operator's next tasks.
    notes: doubts to show before the step is done. key_file: to write before the configuration.
    """

    text: str
    summary: str
    instructions: tuple[str, ...]
    notes: tuple[str, ...] = ()
    key_file: KeyFile | None = None


class RotationSteps:
    """The rotation of one configuration, as its file is now."""

    def __init__(
        self,
        path: Path,
        ask: Callable[[], Sequence[Balancer]],
        old_id: int | None = None,
        *,
        new_id: int | None = None,
        force: bool = False,
    ) -> None:
        """Read the configuration.

        ask: returns the report of every balancer, or raises. old_id: the config ID to replace, if several are active.
        new_id: the config ID of the new CID config; None to choose one. force: ignore objections that rest on packets.
        Raises ConfigError if the configuration is wrong, QlbError if the CID configs to rotate are ambiguous.
        """
        self.config = load(path).config
        self.path = Path(os.path.realpath(path))
        self.text = decode(self.path.read_bytes(), path)
        self.parts: Parts = read_parts(self.config, old_id)
        self._ask = ask
        self._new_id = new_id
        self._force = force

    def next_step(self) -> Step:
        """Return the next step. Raises StepRefused if it is not safe yet, QlbError if its safety is unknown."""
        if self.parts.staged is not None:
            return self._issue(self.parts.staged, self.parts.old)
        if self.parts.retiring:
            return self._remove(self.parts.retiring[0])
        return self._introduce(self.parts.old[0])

    def abort(self) -> Step:
        """Return the step that undoes: remove the staged CID config or reactivate the retiring one.

        Raises the same errors as next_step().
        """
        if self.parts.staged is not None:
            return self._unstage(self.parts.staged)
        if not self.parts.retiring:
            raise QlbError("no rotation is under way: there is nothing to abort")
        old_id, new_ids = self.parts.retiring[0].config_id, [one.config_id for one in self.parts.old]
        states: dict[int, CidState] = {old_id: "active", **dict.fromkeys(new_ids, "retiring")}
        summary = f"config {old_id} is active again, config {_listed(new_ids)} retires"
        return Step(edits.set_states(self.text, self.path, states), summary, self._servers(old_id))

    def difference(self, step: Step) -> list[str]:
        """Return the changes of a step to the configuration as a unified diff, without keys."""
        before, after = (edits.without_keys(text).splitlines() for text in (self.text, step.text))
        return list(difflib.unified_diff(before, after, str(self.path), str(self.path), lineterm=""))

    def write(self, step: Step) -> None:
        """Do a step.

        Raises QlbError, with nothing changed, if the configuration has changed since it was read, or a file cannot be
        written.
        """
        try:
            if decode(self.path.read_bytes(), self.path) != self.text:
                raise QlbError(f"{self.path} has changed since it was read, and nothing was written: run this again")
            if step.key_file is not None:
                write_key(*step.key_file)
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            _replace(self.path, step.text)
        except OSError as error:
            if step.key_file is not None:
                step.key_file.path.unlink(missing_ok=True)
            raise self._cannot_write(error) from error

    def undo(self, step: Step) -> None:
        """Restore the files to their state before a step."""
        _replace(self.path, self.text)
        if step.key_file is not None:
            step.key_file.path.unlink()

    def _introduce(self, old: CidConfig) -> Step:
        new_id, warnings = choose_config_id(self.config, self._ask(), self._new_id, force=self._force)
        key = new_key()
        inline = old.key is not None and old.key_file is None
        key_file = None if inline else KeyFile(self._unused_key_path(old, new_id), key)
        named = Path(os.path.relpath(key_file.path, self.path.parent)) if key_file is not None else None
        new = replace(old, config_id=new_id, key=key, key_file=named, state="staged")
        return Step(
            edits.introduce(self.text, self.path, new, old.config_id, self._server_ids(old)),
            f"config {new_id} with a new key is staged beside config {old.config_id} in {self.path}",
            ("next: copy this file and its keys to every balancer and reload them; then run this again",),
            tuple(f"note: {warning}" for warning in warnings),
            key_file,
        )

    def _issue(self, staged: CidConfig, old: Sequence[CidConfig]) -> Step:
        _refuse(against_issuing(self.config, staged, self._ask()))
        old_ids = [one.config_id for one in old]
        states: dict[int, CidState] = {staged.config_id: "active", **dict.fromkeys(old_ids, "retiring")}
        instructions = (
            *self._servers(staged.config_id),
            f"then run this again, when no packet has carried config {_listed(old_ids)} for "
            f"{self.config.rotation.quiet_period:g} s",
        )
        summary = f"config {staged.config_id} is active, config {_listed(old_ids)} retires"
        return Step(edits.set_states(self.text, self.path, states), summary, instructions)

    def _remove(self, going: CidConfig) -> Step:
        if not self._force:
            _refuse(against_removing(self.config, going, self._ask()))
        instructions = [_SPREAD]
        if going.key_file is not None:
            instructions.append(f"when all balancers have loaded it, {going.key_file} is no longer needed")
        return self._without(going, *instructions)

    def _unstage(self, staged: CidConfig) -> Step:
        if not self._force:
            _refuse(against_unstaging(staged, self._ask()))
        return self._without(staged, _SPREAD)

    def _without(self, going: CidConfig, *instructions: str) -> Step:
        text = edits.remove(self.text, self.path, going.config_id)
        return Step(text, f"config {going.config_id} is removed from {self.path}", instructions)

    def _unused_key_path(self, old: CidConfig, new_id: int) -> Path:
        """Return a path beside the old key's file that does not exist yet."""
        folder = old.key_file.parent if old.key_file is not None else self.path.parent / "keys"
        names = (f"{new_id}.hex", *(f"{new_id}-{number}.hex" for number in range(2, 1000)))
        return next(folder / name for name in names if not (folder / name).exists())

    def _server_ids(self, old: CidConfig) -> dict[str, tuple[bytes, ...]]:
        """Return the backends' server IDs under the new CID config.

        They are the same as under the old one if that has a key. If it has none, they are random: an attacker knows
        the old ones, which would help to attack the encrypted ones.
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
        return ("next: give every server its parameters:", *(f"  qlb server-config {self.path} {n}" for n in names))

    def _cannot_write(self, error: OSError) -> QlbError:
        return QlbError(f"{error.filename or self.path} cannot be written: {error.strerror}")


_SPREAD = "next: copy this file to every balancer and reload them"


def _refuse(problems: Iterator[str]) -> None:
    """Raise StepRefused if there is a problem."""
    found = tuple(problems)
    if found:
        raise StepRefused("\n".join(found))


def _replace(path: Path, text: str) -> None:
    """Replace the text of a file, which retains its mode and, if this process is root, its owner."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            before = path.stat()
            os.fchmod(descriptor, before.st_mode & 0o7777)
            if os.geteuid() == 0:
                os.fchown(descriptor, before.st_uid, before.st_gid)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _listed(config_ids: Sequence[int]) -> str:
    return ", ".join(map(str, config_ids)) or "none"
