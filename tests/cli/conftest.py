"""Fixtures of the command line's tests: a function that runs a command, and a configuration."""

from pathlib import Path

import pytest

from lab.command_line import TEXT, Result, Run
from qlb.cli import main


@pytest.fixture
def qlb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command line in this process."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr("sys.argv", ["qlb", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Result(int(code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write a valid configuration; return its path."""
    path = tmp_path / "qlb.yaml"
    path.write_text(TEXT)
    path.chmod(0o600)
    return path
