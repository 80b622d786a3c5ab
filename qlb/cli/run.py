"""``qlb run``: the daemon, alone or with demo servers behind it."""

import gc
import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from qlb.cli.client import CONFIG, ConfigCommand, config_option
from qlb.cli.invocation import own_command, require_aioquic
from qlb.errors import BackendError

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from qlb.config.load import Loaded
    from qlb.daemon.supervisor import Supervisor

DEMO_READY: Final = "qlb forwards QUIC"
"""The start of the line that ``qlb run --demo-backends`` prints when it forwards packets."""
_DEMO_START_TIMEOUT_S: Final = 30.0


@click.command("run", cls=ConfigCommand, short_help="Run the load balancer.")
@click.argument("config", type=CONFIG)
@click.option("--demo-backends", is_flag=True, help="Also run a demo QUIC/HTTP/3 server at each backend's address.")
@config_option
def run(config: Path, demo_backends: bool) -> None:
    """Forward QUIC packets as CONFIG describes, until SIGTERM or Ctrl-C."""
    if demo_backends:
        require_aioquic()
    _request_start_time()
    gc.disable()  # a configuration contains no garbage, and a search for it would take a third of the time
    try:
        from qlb.config.load import load
        from qlb.local_addresses import local_hosts

        loaded = load(config, find_local=local_hosts)
    finally:
        gc.enable()
    # The daemon's own libraries are imported only after the configuration has been accepted.
    from qlb.workers.worker import run_on_fast_loop

    sys.exit(run_on_fast_loop(_run(config, loaded, demo_backends)))


def _request_start_time() -> None:
    """Request more start time from the service manager, if there is one: a large configuration takes long to load."""
    if "NOTIFY_SOCKET" in os.environ:
        from qlb.handover.systemd import Notifier, Service

        Service(Notifier(dict(os.environ))).starting()


async def _run(config: Path, loaded: "Loaded", demo_backends: bool) -> int:
    from contextlib import suppress

    from qlb.daemon.supervisor import Supervisor
    from qlb.handover.protocol import Origin

    origin = Origin.of_process(os.environ, can_be_followed=not demo_backends)
    if not demo_backends:
        return await Supervisor(config, loaded, origin=origin).run()
    servers = await _start_demo_backends(config)
    try:
        return await Supervisor(config, loaded, on_ready=partial(_print_suggestions, config), origin=origin).run()
    finally:
        assert servers.stdin is not None, "the process was started with a pipe"
        servers.stdin.close()  # the demo servers end at the end of their standard input
        with suppress(ProcessLookupError):
            servers.terminate()
        await servers.wait()


async def _start_demo_backends(config: Path) -> "Process":
    """Start the demo servers in their own process, which ends together with this one."""
    import asyncio

    servers = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qlb.demo.backends", str(config)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches only the daemon, which stops the servers after itself
    )
    assert servers.stdout is not None, "the process was started with a pipe"
    line = await asyncio.wait_for(servers.stdout.readline(), _DEMO_START_TIMEOUT_S)
    if not line:
        await servers.wait()
        raise BackendError("the demo servers did not start; the reason is above")
    return servers


def _print_suggestions(path: Path, supervisor: "Supervisor") -> None:
    """Print commands to try while the demo runs, in the form in which this command was started."""
    parts, qlb, config = supervisor.parts, own_command(), shlex.quote(str(path))
    service, admin = parts.listen[0], parts.admin.address
    names = [backend.name for backend in parts.desired.config.backends]
    lines = [f"{DEMO_READY} on {service} to {len(names)} demo servers, which answer with their names. Try:", ""]
    lines.append(f"  {qlb} demo get https://{service}/              # which server answers me?")
    lines.append(f"  {qlb} demo get https://{service}/ --rebind 3   # the same connection from three more addresses")
    if admin is not None:
        lines.append(
            f"  curl http://{admin}/status                # backends, outcomes; also /metrics, and a page at /"
        )
    if parts.admin.control_path is not None:
        lines.append(f"  {qlb} status --config {config}")
        lines.append(f"  {qlb} drain {names[0]} --config {config}")
    lines += ["", "Ctrl-C ends the demo."]
    click.echo("\n".join(lines))
