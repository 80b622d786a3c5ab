"""The steps of a rotation as changes of files: the configuration, and the file of a new key.

next_step() and abort() only compute a step, so that it can be shown first; write() does it. A file is replaced as a
whole, so that a reader gets either the old content or the new one.
"""

import difflib
import errno
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from qlb.config.credentials import is_credential
from qlb.config.load import decode, load
from qlb.config.model import CidConfig, CidState
from qlb.errors import ConfigError, QlbError
from qlb.rotation import edits
from qlb.rotation.key_place import KeyPlace, OldKey, choose_place
from qlb.rotation.keys import new_key, replace_text, write_key
from qlb.rotation.phases import (
    Balancer,
    Parts,
    against_issuing,
    against_removing,
    against_unstaging,
    choose_config_id,
    read_parts,
)
from qlb.rotation.plans import Kind, PlanFacts, find_way, write_plan


class StepRefused(QlbError):
    """The next step is not safe yet. The text has one reason on each line."""


class KeyFile(NamedTuple):
    """A new key and the place of its file, which does not exist yet."""

    place: KeyPlace
    key: bytes

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.place.path


class Choices(NamedTuple):
    """The operator's choices for a step.

    old_id: the config ID to replace, if several are active. new_id: of the new CID config. force: ignore objections
    that rest on packets. key_file: where to write the new key. key_name: what the configuration names in its place.
    """

    old_id: int | None = None
    new_id: int | None = None
    force: bool = False
    key_file: Path | None = None
    key_name: str | None = None


_AUTOMATIC: Final = Choices()


class Step(NamedTuple):
    """A step that has been computed but not done.

    text: of the changed configuration. summary: the state after the step. instructions: the operator's next tasks.
    notes: doubts to show before the step is done. key_file: to write before the configuration. old_key: the file of a
    key that is no longer needed after the step. servers: the backends to give other parameters.
    """

    kind: Kind
    text: str
    summary: str
    instructions: tuple[str, ...]
    notes: tuple[str, ...] = ()
    key_file: KeyFile | None = None
    old_key: str = ""
    servers: tuple[str, ...] = ()

    @property
    def needs_restart(self) -> bool:
        """True if a reload cannot do the step, because systemd passes new keys only to a daemon that it starts."""
        return self.key_file is not None and self.key_file.place.by_systemd


class RotationSteps:
    """The rotation of one configuration, as its file is now."""

    def __init__(self, path: Path, ask: Callable[[], Sequence[Balancer]], choices: Choices = _AUTOMATIC) -> None:
        """Read the configuration, without its keys: they may not be readable here.

        ask: returns the report of every balancer, or raises. Raises ConfigError if the configuration is wrong, QlbError
        if the CID configs to rotate are ambiguous.
        """
        self.named = path
        self.config = load(path, with_keys=False).config
        self.path = Path(os.path.realpath(path))
        self.text = decode(self.path.read_bytes(), path)
        self.parts: Parts = read_parts(self.config, choices.old_id)
        self._ask = ask
        self._choices = choices

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
        text = edits.set_states(self.text, self.named, states)
        return Step("reissue", text, summary, self._tell(old_id), servers=self._servers(old_id))

    def difference(self, step: Step) -> list[str]:
        """Return the changes of a step to the configuration as a unified diff, without keys."""
        before, after = (edits.without_keys(text).splitlines() for text in (self.text, step.text))
        return list(difflib.unified_diff(before, after, str(self.named), str(self.named), lineterm=""))

    def plan(self, step: Step, *, with_difference: bool) -> str:
        """Return the plan of a step for an operator, or a program, that applies it elsewhere."""
        place = step.key_file.place if step.key_file is not None else None
        keys = [one.key_file for one in self.config.cid_configs if one.key_file is not None]
        return write_plan(
            PlanFacts(
                step.kind,
                find_way(by_systemd=any(map(is_credential, keys)) or step.needs_restart),
                step.summary,
                self.named,
                self.difference(step) if with_difference else ["(the output of this command)"],
                step.servers,
                place,
                step.old_key,
            )
        )

    def write(self, step: Step) -> None:
        """Do a step.

        Raises QlbError, with nothing changed, if the configuration has changed since it was read, or a file cannot be
        written.
        """
        try:
            if decode(self.path.read_bytes(), self.path) != self.text:
                raise QlbError(f"{self.path} has changed since it was read, and nothing was written: run this again")
            if step.key_file is not None:
                write_key(step.key_file.path, step.key_file.key)
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            replace_text(self.path, step.text)
        except OSError as error:
            if step.key_file is not None:
                step.key_file.path.unlink(missing_ok=True)
            raise self._cannot_write(error) from error

    def undo(self, step: Step) -> None:
        """Restore the files to their state before a step."""
        replace_text(self.path, self.text)
        if step.key_file is not None:
            step.key_file.path.unlink()

    def _introduce(self, old: CidConfig) -> Step:
        choices = self._choices
        new_id, warnings = choose_config_id(self.config, self._ask(), choices.new_id, force=choices.force)
        key = new_key()
        is_inline = old.key is not None and old.key_file is None and choices.key_file is None
        key_file = None if is_inline else KeyFile(self._place(old, new_id), key)
        named = Path(key_file.place.name) if key_file is not None else None
        new = replace(old, config_id=new_id, key=key, key_file=named, state="staged")
        step = Step(
            "stage",
            edits.introduce(self.text, self.named, new, old.config_id, self._server_ids(old)),
            f"config {new_id} with a new key is staged beside config {old.config_id} in {self.named}",
            ("next: copy this file and its keys to every balancer and reload them; then run this again",),
            tuple(f"note: {warning}" for warning in warnings),
            key_file,
        )
        if key_file is None or not step.needs_restart:
            return step
        return step._replace(
            instructions=(
                f"no daemon was reloaded: systemd passes {key_file.place.name} only to a daemon that it starts",
                f"next: copy this file and {key_file.path} to every balancer. Then on each, one after the other:",
                "  systemctl start qlb-check",
                "  systemctl restart qlb",
                "then run this again",
            )
        )

    def _place(self, old: CidConfig, new_id: int) -> KeyPlace:
        before = None
        if old.key_file is not None:
            before = OldKey(old.key_file, edits.key_file_of(self.text, old.config_id))
        folder = self.named.parent.absolute()
        return choose_place(folder, new_id, before, self._choices.key_file, self._choices.key_name)

    def _issue(self, staged: CidConfig, old: Sequence[CidConfig]) -> Step:
        try:
            config = load(self.named).config
        except ConfigError as error:
            raise StepRefused(str(error)) from error
        _refuse(against_issuing(config, staged, self._ask()))
        old_ids = [one.config_id for one in old]
        states: dict[int, CidState] = {staged.config_id: "active", **dict.fromkeys(old_ids, "retiring")}
        instructions = (
            *self._tell(staged.config_id),
            f"then run this again, when no packet has carried config {_listed(old_ids)} for "
            f"{self.config.rotation.quiet_period:g} s",
        )
        summary = f"config {staged.config_id} is active, config {_listed(old_ids)} retires"
        text = edits.set_states(self.text, self.named, states)
        return Step("issue", text, summary, instructions, servers=self._servers(staged.config_id))

    def _remove(self, going: CidConfig) -> Step:
        if not self._choices.force:
            _refuse(against_removing(self.config, going, self._ask()))
        return self._without("remove", going)

    def _unstage(self, staged: CidConfig) -> Step:
        if not self._choices.force:
            _refuse(against_unstaging(staged, self._ask()))
        return self._without("unstage", staged)

    def _without(self, kind: Kind, going: CidConfig) -> Step:
        instructions, old_key = [_SPREAD], ""
        if going.key_file is not None:
            old_key = str(going.key_file)
            if is_credential(going.key_file):
                old_key = f"the file of which systemd makes the credential {going.key_file.name}"
            instructions.append(f"when all balancers have loaded it, {old_key} is no longer needed")
        text = edits.remove(self.text, self.named, going.config_id)
        summary = f"config {going.config_id} is removed from {self.named}"
        return Step(kind, text, summary, tuple(instructions), old_key=old_key)

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
        return tuple(backend.name for backend in self.config.backends if config_id in backend.server_ids)

    def _tell(self, config_id: int) -> tuple[str, ...]:
        commands = (f"  qlb server-config {self.named} {name}" for name in self._servers(config_id))
        return ("next: give every server its parameters:", *commands)

    def _cannot_write(self, error: OSError) -> QlbError:
        hint = ""
        if error.errno == errno.EROFS:
            hint = "; --print writes nothing: it prints the change and the plan to apply it"
        elif error.errno == errno.EEXIST:
            hint = "; choose another file with --key-file"
        return QlbError(f"{error.filename or self.path} cannot be written: {error.strerror}{hint}")


_SPREAD = "next: copy this file to every balancer and reload them"


def _refuse(problems: Iterator[str]) -> None:
    """Raise StepRefused if there is a problem."""
    found = tuple(problems)
    if found:
        raise StepRefused("\n".join(found))


def _listed(config_ids: Sequence[int]) -> str:
    return ", ".join(map(str, config_ids)) or "none"
