"""``qlb run``: the daemon, alone or with demo servers behind it."""

import asyncio
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from qlb.config.load import Loaded, load
from qlb.errors import BackendError
from qlb.local_addresses import local_hosts

if TYPE_CHECKING:
    from qlb.daemon.supervisor import Supervisor

CONFIG: Final = click.Path(path_type=Path)
_DEMO_START_TIMEOUT_S: Final = 30.0


@click.command("run")
@click.argument("config", type=CONFIG)
@click.option("--demo-backends", is_flag=True, help="Also run a QUIC/HTTP/3 server at each backend's address.")
def run(config: Path, demo_backends: bool) -> None:
    """Forward QUIC by the configuration CONFIG until SIGTERM or Ctrl-C."""
    _ask_for_time()
    gc.disable()  # nothing of a configuration is garbage, and looking for some takes a third of the time
    try:
        loaded = load(config, find_local=local_hosts)
    finally:
        gc.enable()
    # The daemon's own libraries are imported only once the configuration is known to be good.
    from qlb.workers.worker import run_on_fast_loop

    sys.exit(run_on_fast_loop(_run(config, loaded, demo_backends)))


def _ask_for_time() -> None:
    """Ask the service manager, if there is one, for the time that reading a large configuration takes."""
    if "NOTIFY_SOCKET" in os.environ:
        from qlb.handover.systemd import Notifier, Service

        Service(Notifier(dict(os.environ))).starting()


async def _run(config: Path, loaded: Loaded, demo_backends: bool) -> int:
    from qlb.daemon.supervisor import Supervisor
    from qlb.handover.successor import Origin

    origin = Origin.of_process(os.environ, can_be_followed=not demo_backends)
    if not demo_backends:
        return await Supervisor(config, loaded, origin=origin).run()
    servers = await _start_demo_backends(config)
    try:
        return await Supervisor(config, loaded, on_ready=_say_what_to_try, origin=origin).run()
    finally:
        assert servers.stdin is not None, "it was started with a pipe"
        servers.stdin.close()  # the sign to end
        with suppress(ProcessLookupError):
            servers.terminate()
        await servers.wait()


async def _start_demo_backends(config: Path) -> asyncio.subprocess.Process:
    """Start the demo servers in a process of their own; they end when this one does."""
    servers = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qlb.demo.backends", str(config)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the daemon: its backends go after it
    )
    assert servers.stdout is not None, "it was started with a pipe"
    line = await asyncio.wait_for(servers.stdout.readline(), _DEMO_START_TIMEOUT_S)
    if not line:
        await servers.wait()
        raise BackendError("the demo servers could not start; is the aioquic extra installed, are their ports free?")
    return servers


def _say_what_to_try(supervisor: "Supervisor") -> None:
    parts = supervisor.parts
    service, admin, control = parts.listen[0], parts.admin.address, parts.desired.config.admin.socket
    lines = [f"qlb forwards QUIC on {service}; three servers behind it answer with their own names. Try:", ""]
    lines.append(f"  qlb get https://{service}/                # which server am I on?")
    lines.append(f"  qlb get https://{service}/ --rebind 3     # the same connection from three more addresses")
    if admin is not None:
        lines.append(
            f"  curl http://{admin}/status                 # backends, outcomes; also /metrics, and a page at /"
        )
    if control is not None:
        lines.append(f"  qlb status --socket {control}")
        lines.append(f"  qlb drain {parts.desired.config.backends[0].name} --socket {control}")
    lines += ["", "qlb itself is in .venv/bin after `make run`. Ctrl-C ends it."]
    click.echo("\n".join(lines))


COMMANDS = (run,)
