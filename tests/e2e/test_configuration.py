"""`qlb config` and shell completion with a real daemon: what they show is what the daemon has accepted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from lab.daemon import Daemon, Yaml, configuration, running
from lab.stage import PARAMS

pytestmark = pytest.mark.e2e

KEY: Final = PARAMS.key or b""


def config(**sections: object) -> Yaml:
    """Return a configuration of one backend without a server."""
    backends = [{"name": "a:1", "address": "127.0.0.1:9", "server_ids": {"1": "00" * PARAMS.server_id_length}}]
    made = configuration([("127.0.0.1", 0)], [PARAMS], [], health={"probe": "none"}, **sections)
    return {**made, "backends": backends}


async def in_force(daemon: Daemon, *options: str) -> Yaml:
    """Return the configuration in force."""
    code, output = await daemon.command("config", "--json", *options)
    assert code == 0, output
    found: Yaml = json.loads(output)
    return found


async def test_the_configuration_in_force(tmp_path: Path) -> None:
    """The daemon shows the configuration that it accepted last, after a refused reload, too, and never its key."""
    async with running(tmp_path / "node", config(drain={"quiet_period": "5s"}), may_log_errors=True) as daemon:
        before = await in_force(daemon)
        assert before["drain"] == {"quiet_period": "5s"}
        assert before["cid_configs"][0]["fingerprint"] == (await daemon.status())["cid_configs"][0]["fingerprint"]
        daemon.write(config(drain={"quiet_period": "never"}))
        assert (await daemon.command("reload"))[0] == 2
        assert await in_force(daemon) == before
        daemon.write(config(drain={"quiet_period": "7s"}))
        assert (await daemon.command("reload"))[0] == 0
        assert (await in_force(daemon))["drain"] == {"quiet_period": "7s"}
        assert (await in_force(daemon, "--effective"))["fallback"]["flow_timeout"] == "30s"
        for options in ((), ("--effective",), ("--json",)):
            code, output = await daemon.command("config", *options)
            assert code == 0
            assert KEY.hex() not in output
            assert "(not shown)" in output
        assert (await daemon.cli("config", str(daemon.path)))[1] in (await daemon.command("config"))[1]


async def test_the_shell_completes_backends_of_the_daemon(tmp_path: Path) -> None:
    """The shell completes the name of a backend for `qlb drain`, and for `qlb undrain` after that."""
    async with running(tmp_path / "node", config()) as daemon:
        program = Path(sys.executable).with_name("qlb")
        if not program.exists():
            pytest.skip(f"no {program}: qlb is not installed")

        def completed(command: str) -> str:
            words = f"qlb {command} --socket {daemon.socket} "
            environ = {**os.environ, "_QLB_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "4"}
            done = subprocess.run([program], env=environ, capture_output=True, text=True, timeout=120, check=True)
            return done.stdout.strip()

        assert (completed("drain"), completed("undrain")) == ("plain,a:1", "")
        assert (await daemon.command("drain", "a:1"))[0] == 0
        assert (completed("drain"), completed("undrain")) == ("", "plain,a:1")
