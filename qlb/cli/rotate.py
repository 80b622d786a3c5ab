"""``qlb rotate``: the next safe step from one QUIC-LB configuration to another, or why it is not safe yet.

The states of the configurations stand in the YAML, which this edits; whether a step is safe is asked of every balancer.
Run it again and again, or with --wait once. Only files and the daemon of this configuration are touched.
"""

import difflib
import json
import time
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, Final

import click

from qlb.cli.control import ask
from qlb.cli.run import CONFIG
from qlb.config.build import cid_params
from qlb.config.load import load
from qlb.config.model import Config
from qlb.config.names import BALANCER
from qlb.errors import QlbError
from qlb.rotation.phases import Balancer, read_balancer
from qlb.rotation.steps import RotationSteps, Step, StepRefused

_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 1.0


class _BalancerName(click.ParamType[str]):
    """http://ADDRESS:PORT, or the path of a control socket."""

    name = "url|socket"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as it is asked by, or end with a usage error."""
        try:
            return BALANCER.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("rotate")
@click.argument("config", type=CONFIG)
@click.option("--status", "only_status", is_flag=True, help="Say where the rotation is, and change nothing.")
@click.option("--abort", is_flag=True, help="Go back: remove what is staged, or make active again what retires.")
@click.option("--dry-run", is_flag=True, help="Show what would change in CONFIG, and change nothing.")
@click.option("--wait", is_flag=True, help="Go on, step by step, until the old configuration has gone.")
@click.option("--config-id", type=click.IntRange(0, 6), help="What to replace, where several are active.")
@click.option("--new-config-id", type=click.IntRange(0, 6), help="The config ID of the new configuration.")
@click.option("--force", is_flag=True, help="Do the step even if packets speak against it: anybody can send them.")
@click.option("--balancer", "balancers", type=_BalancerName(), multiple=True, help="In place of rotation.balancers.")
def rotate(
    config: Path,
    only_status: bool,
    abort: bool,
    dry_run: bool,
    wait: bool,
    config_id: int | None,
    new_config_id: int | None,
    force: bool,
    balancers: tuple[str, ...],
) -> None:
    """Do the next safe step from one QUIC-LB configuration to another with a new key, or say why it is not safe yet.

    The steps: a new configuration that every balancer decodes; then servers issue from it; then the old one goes, when
    no packet has carried it for rotation.quiet_period. Each edits CONFIG and reloads its daemon.
    """
    if force and wait:
        raise click.UsageError("--force does one step; it does not go with --wait")

    def begin() -> RotationSteps:
        ask_all = lambda: _ask_all(load(config).config, balancers)  # noqa: E731
        return RotationSteps(config, ask_all, config_id, new_id=new_config_id, force=force)

    if only_status:
        _say_status(begin(), _ask_all(load(config).config, balancers))
        return
    while True:
        steps = begin()
        step = _when_safe(steps) if wait and not dry_run else steps.abort() if abort else steps.next_step()
        if dry_run:
            click.echo("\n".join(_difference(steps, step)))
        else:
            _do(steps, step, force=force)
        if dry_run or not wait or (steps.parts.retiring and steps.parts.staged is None):
            return


def _when_safe(steps: RotationSteps) -> Step:
    """Wait until the next step is safe, and tell what is waited for, once."""
    told = False
    while True:
        try:
            return steps.next_step()
        except StepRefused as error:
            if not told:
                click.echo(f"waiting: {error}")
            told = True
            time.sleep(_POLL_S)


def _do(steps: RotationSteps, step: Step, *, force: bool) -> None:
    """Write the files and reload their daemon; where that refuses, put them back."""
    steps.write(step)
    problems = _reload(steps.config, force=force)
    if problems:
        steps.take_back(step)
        raise QlbError("the daemon refuses, and the file is as it was:\n" + "\n".join(problems))
    click.echo("\n".join(step.said))


def _reload(config: Config, *, force: bool) -> tuple[str, ...]:
    """Reload the daemon of a configuration, if it runs; return why it refuses."""
    path = config.admin.socket
    if path is None or not path.is_socket():
        click.echo("no daemon was reloaded: there is no control socket (admin.socket)", err=True)
        return ()
    code, answer = ask(path, "POST", "/reload/force" if force else "/reload")
    problems = tuple(answer.get("problems", ())) or (str(answer),)
    if answer.get("incomplete"):  # the file is in force: going back to the one before would only add to the confusion
        raise QlbError("the step is done in the file, but not in every worker; run this again:\n" + "\n".join(problems))
    return () if code == HTTPStatus.OK else problems


def _difference(steps: RotationSteps, step: Step) -> list[str]:
    """Return what a step changes as a unified diff, keys left out."""
    before, after = steps.text.splitlines(), step.text.splitlines()
    lines = difflib.unified_diff(before, after, str(steps.path), str(steps.path), lineterm="")
    return [f"{line.partition('key:')[0]}key: (not shown)" if "key:" in line else line for line in lines]


def _say_status(steps: RotationSteps, balancers: Sequence[Balancer]) -> None:
    fingerprints = {params.config_id: params.fingerprint for params in cid_params(steps.config)}
    for one in steps.config.cid_configs:
        click.echo(f"config {one.config_id}: {one.state}, fingerprint {fingerprints[one.config_id]}")
        for balancer in balancers:
            seen = balancer.configs.get(one.config_id)
            known = f"{seen.packets} packets, silent for {seen.silence_s:.1f} s" if seen else "does not decode it"
            click.echo(f"  {balancer.name}: {known}")
    if steps.parts.staged is None and not steps.parts.retiring:
        click.echo("no rotation is under way; the next step adds a config with a new key")
        return
    try:
        steps.next_step()
    except StepRefused as error:
        click.echo(f"the next step is not safe yet:\n{error}")
    else:
        click.echo("the next step is safe: run this without --status")


def _ask_all(config: Config, names: Sequence[str]) -> list[Balancer]:
    """Ask every balancer. Raises QlbError where one does not answer: what it does is not known."""
    return [read_balancer(name, _status(name)) for name in names or config.rotation.balancers or _own(config)]


def _own(config: Config) -> tuple[str, ...]:
    if config.admin.socket is not None:
        return (str(config.admin.socket),)
    if config.admin.listen is not None:
        return (f"http://{config.admin.listen}",)
    raise QlbError("no balancer can be asked: set rotation.balancers or admin.socket, or give --balancer")


def _status(name: str) -> dict[str, Any]:
    if name.startswith("/"):
        answer = ask(Path(name), "GET", "/status")[1]
    else:
        try:
            with _open_directly(f"{name}/status") as response:
                answer = json.load(response)
        except (OSError, ValueError) as error:
            raise QlbError(f"balancer {name} does not answer ({error}): what it decodes is not known") from error
    if not isinstance(answer, dict):
        raise QlbError(f"balancer {name} gives no status")
    return answer


def _open_directly(url: str) -> HTTPResponse:
    """Open a URL without the proxies of the environment: balancers are in the operator's own network."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    response: HTTPResponse = opener.open(url, timeout=_TIMEOUT_S)
    return response


COMMANDS = (rotate,)
