"""Daemons whose configuration names no control socket, and the commands that find them."""

from pathlib import Path

import pytest

from lab.ports import free_port
from lab.programs import run, started, until

pytestmark = pytest.mark.e2e


def write(folder: Path, name: str) -> str:
    """Write a configuration without a control socket; return its name."""
    (folder / name).write_text(
        f"listen: ['127.0.0.1:{free_port()}']\n"
        f"backends: [{{name: agent, address: '127.0.0.1:{free_port()}'}}]\n"
        "admin: {listen: none}\n"
        "health: {probe: none}\n"
    )
    return name


async def test_two_daemons_of_one_user(tmp_path: Path) -> None:
    """Commands find the first daemon, also after an upgrade. With the second one's file they change nothing."""
    first, second = write(tmp_path, "first.yaml"), write(tmp_path, "second.yaml")
    (tmp_path / "run").mkdir()
    environ = {"RUNTIME_DIRECTORY": str(tmp_path / "run")}

    async def qlb(*words: str, **more: str) -> tuple[int, str]:
        code, out, errors = await run("qlb", *words, folder=tmp_path, **environ, **more)
        return code, out + errors

    async with started("qlb", "run", first, folder=tmp_path, **environ) as daemon:
        await until(daemon.stderr, " ready ")
        async with started("qlb", "run", second, folder=tmp_path, **environ) as other:
            await until(other.stderr, 'no control socket reason="a daemon already answers at')
            await until(other.stderr, " ready ")
            assert (await qlb("status"))[0] == 0
            assert await qlb("drain", "agent", "--config", first) == (0, "agent: draining\n")
            code, text = await qlb("undrain", "agent", "--config", second)
            assert (code, "the daemon here runs" in text, "first.yaml" in text) == (1, True, True)
            assert (await qlb("reload", QLB_CONFIG=second))[0] == 1
            code, text = await qlb("upgrade", QLB_CONFIG=first)
            assert code == 0, text
            code, text = await qlb("status")
            assert (code, "draining" in text) == (0, True)
            assert (await qlb("undrain", "agent", "-c", first)) == (0, "agent: active\n")
