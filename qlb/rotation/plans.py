"""Texts for the operator: the state of a rotation, and the printed plan of a step that another program applies."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from qlb.config.build import cid_params
from qlb.config.load import load
from qlb.config.model import Config
from qlb.errors import ConfigError
from qlb.rotation.key_place import KeyPlace
from qlb.rotation.phases import Balancer

Kind = Literal["stage", "issue", "remove", "unstage", "reissue"]
Way = Literal["files", "systemd", "kubernetes"]
"""How the configuration and its keys get to the daemon."""
_IN_A_POD: Final = "KUBERNETES_SERVICE_HOST"
"""The variable that Kubernetes sets in every container."""


def find_way(*, by_systemd: bool) -> Way:
    """Return how files get to the daemon. by_systemd: a key of the configuration is a credential of systemd."""
    if by_systemd:
        return "systemd"
    return "kubernetes" if _IN_A_POD in os.environ else "files"


class PlanFacts(NamedTuple):
    """The facts of a plan. config: the file's path. difference: the lines of the diff. servers: to be told.

    new_key: the place of a new key, which was not written. old_key: the file of a key that is no longer needed.
    """

    kind: Kind
    way: Way
    summary: str
    config: Path
    difference: Sequence[str]
    servers: Sequence[str] = ()
    new_key: KeyPlace | None = None
    old_key: str = ""


class _Task(NamedTuple):
    """One task of a plan: a sentence, commands or lines below it, and commands that verify it."""

    text: str
    lines: Sequence[str] = ()
    verify: Sequence[str] = ()


def write_plan(facts: PlanFacts) -> str:
    """Return the plan of a step: what to apply where, in which order, and the command that verifies each task."""
    lines = [f"plan: {facts.summary}"]
    for number, task in enumerate(_tasks(facts), 1):
        lines.append(f"{number}. {task.text}")
        lines += [f"     {line}" for line in task.lines]
        if task.verify:
            lines += ["   Verify:", *(f"     {line}" for line in task.verify)]
    return "\n".join(lines)


def _tasks(facts: PlanFacts) -> Iterator[_Task]:
    status = f"qlb rotate status {facts.config}"
    if facts.new_key is not None:
        yield _create_key(facts, facts.new_key)
    if facts.way == "kubernetes":
        apply = "In the values of the chart, make these changes in `config`, and run `helm upgrade`:"
    else:
        apply = f"On every balancer, make these changes in {facts.config}:"
    yield _Task(apply, facts.difference)
    yield _load(facts, status)
    if facts.kind in ("issue", "reissue"):
        yield _Task(
            "Give every server its parameters:",
            [f"qlb server-config {facts.config} {name}" for name in facts.servers],
            [f"{status}    # the packets of the new CID config increase"],
        )
    if facts.old_key and facts.way == "kubernetes":
        yield _Task(f"Remove the entry {Path(facts.old_key).name} from the Secret.")
    elif facts.old_key:
        yield _Task(f"Delete the old key: {facts.old_key}.")
    if facts.kind in ("stage", "issue", "reissue"):
        yield _Task(
            "When the next step is safe, print its plan:", [f"qlb rotate next {facts.config} --print"], [status]
        )


def _create_key(facts: PlanFacts, place: KeyPlace) -> _Task:
    if facts.way == "kubernetes":
        return _Task(
            f"Add the new key to the Secret, as the entry {place.path.name}: to `keys` in the values of the chart, or "
            "to the chart's `existingSecret`. `qlb keygen` prints a key. A minute later each pod has the file:",
            verify=[f"ls {place.path}"],
        )
    copies = f"; systemd will pass it as {place.name}" if place.by_systemd else ""
    return _Task(
        f"Create the new key, and copy it to every balancer (mode 0600){copies}:",
        [f"qlb keygen {place.path}"],
        [f"ls -l {place.path}"],
    )


def _load(facts: PlanFacts, status: str) -> _Task:
    """Return the task that puts the new file in force."""
    seen = {
        "stage": "every balancer decodes the new CID config",
        "issue": "the new CID config is active, the old one retires",
        "reissue": "the old CID config is active again",
    }.get(facts.kind, "no balancer has the removed CID config")
    verify = [f"{status}    # {seen}"]
    if facts.way == "kubernetes":
        return _Task("Wait until the pods have loaded it, about a minute. Ask in every pod:", verify=verify)
    if facts.new_key is not None and facts.new_key.by_systemd:
        return _Task(
            "Restart one balancer after the other. systemd reads new credentials only then, and no call is lost:",
            ["systemctl start qlb-check    # with the credentials that qlb would get", "systemctl restart qlb"],
            verify,
        )
    reload = "systemctl reload qlb" if facts.way == "systemd" else f"qlb reload --config {facts.config}"
    return _Task("On every balancer, check and load it:", [f"qlb check {facts.config}", reload], verify)


def status_rows(path: Path, config: Config, balancers: Sequence[Balancer]) -> list[dict[str, Any]]:
    """Return one row for each CID config, with its packets on each balancer; None for a balancer that lacks it.

    path: of the configuration. config: without keys.
    """
    fingerprints = _fingerprints(path)
    rows = []
    for one in config.cid_configs:
        seen = {balancer.name: balancer.configs.get(one.config_id) for balancer in balancers}
        known = {name: it and {"packets": it.packets, "silence_s": it.silence_s} for name, it in seen.items()}
        row = {"config_id": one.config_id, "state": one.state, "fingerprint": fingerprints.get(one.config_id)}
        rows.append({**row, "balancers": known})
    return rows


def status_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines that show the rows of status_rows()."""
    for row in rows:
        yield f"config {row['config_id']}: {row['state']}, fingerprint {row['fingerprint'] or 'unknown'}"
        for name, seen in row["balancers"].items():
            known = f"{seen['packets']} packets, silent for {seen['silence_s']:.1f} s" if seen else "does not decode it"
            yield f"  {name}: {known}"


def _fingerprints(path: Path) -> Mapping[int, str]:
    """Return config ID → fingerprint; empty if a key cannot be read here."""
    try:
        config = load(path).config
    except ConfigError:
        return {}
    return {params.config_id: params.fingerprint for params in cid_params(config)}
