"""from_file: read what `qlb server-config` prints, and follow its changes and SIGHUP."""

import gc
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from qlb.cid import CidCodec, CidError, CidGenerator, CidParams, RotatingCidGenerator, RotatingGenerator, WorkerTag
from qlb.cid import files as followed
from qlb.cid.files import Follower
from qlb.config.load import load_text
from qlb.config.server_config import server_config, server_config_yaml, yang_server_configs

KEYS = {1: "8f95f09245765f80256934e50c66207f", 2: "00112233445566778899aabbccddeeff"}
SERVER_ID = bytes.fromhex("c0ffee01")
LIMIT_S = 60.0


def printed(config_id: int = 1, *, cid_length: int = 17, ids: str = '"c0ffee01"', key: str | None = None) -> str:
    """Return what `qlb server-config` prints for one CID config."""
    key = KEYS[config_id] if key is None else key
    text = f"""\
listen: ["127.0.0.1:4433"]
cid_configs:
  - {{config_id: {config_id}, server_id_length: 4, nonce_length: 12, cid_length: {cid_length}, key: {key}}}
backends:
  - {{name: agent-a, address: "127.0.0.1:5001", server_ids: {{{config_id}: [{ids}]}}}}
"""
    return server_config_yaml(load_text(text, Path("qlb.yaml")).config, "agent-a")


def replace(path: Path, text: str) -> None:
    """Write a file as careful programs do: another file, renamed over the old one."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").chmod(0o600)
    path.with_suffix(".new").rename(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write the parameters of agent-a; return the path."""
    path = tmp_path / "agent-a.yaml"
    replace(path, printed())
    return path


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> list[Follower]:
    """Start no threads: a test calls look() itself. Return the followers that were created."""
    found: list[Follower] = []

    def start(self: Follower, *, on_sighup: bool) -> None:  # noqa: ARG001 (the signature of the original)
        found.append(self)

    monkeypatch.setattr(Follower, "start", start)
    return found


def settle(follower: Follower) -> None:
    """Look twice: a change counts when it is the same in two looks."""
    for _ in range(2):
        follower.look(is_asked=False)


def test_a_generator_from_the_file(path: Path) -> None:
    """The IDs decode to the server ID, with the parameters of the file. The path may be text."""
    for generator in (CidGenerator.from_file(path), CidGenerator.from_file(str(path))):
        assert generator.params == CidParams(1, 4, 12, KEYS[1])
        assert CidCodec(generator.params).decode(generator.generate()) == SERVER_ID


def test_the_other_forms(path: Path) -> None:
    """JSON and the YANG model are read too, with a byte order mark and without PyYAML."""
    text = """\
listen: ["127.0.0.1:4433"]
cid_configs: [{config_id: 1, server_id_length: 4, nonce_length: 12, key: 8f95f09245765f80256934e50c66207f}]
backends: [{name: a, address: "127.0.0.1:5001", server_ids: {1: [c0ffee01, c0ffee02]}}]
"""
    config = load_text(text, Path("qlb.yaml")).config
    for document in (server_config(config, "a"), yang_server_configs(config, "a"), yang_server_configs(config, "a")[0]):
        path.write_text("\ufeff" + json.dumps(document))
        assert CidGenerator.from_file(path).server_id == SERVER_ID
    path.write_text(json.dumps(server_config(config, "a")))
    assert CidGenerator.from_file(path, server_id_index=1).server_id.hex() == "c0ffee02"
    assert CidGenerator.from_file(path, config_id=1).server_id == SERVER_ID


def test_the_options_of_the_constructor(path: Path) -> None:
    """Worker tag, nonce key and exhaustion are those of the constructor."""
    tagged = CidGenerator.from_file(path, worker=WorkerTag(1, 8), on_exhaustion="reserved")
    assert tagged.left == 256**11
    with pytest.raises(CidError, match="a worker tag has 1 to 16 bits"):
        CidGenerator.from_file(path, worker=WorkerTag(9, 1))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"\xff\xfe", "not UTF-8 text"),
        (b"cid_configs: [", "line 1, column "),
        (b"a: b\n c: d\n", "line 2, column 3: "),
        (b"", "the file must be a mapping"),
        (b"[" * 100_000, "the file is nested too deeply"),
        (b"a" + b"[" * 20_000, "must be a mapping"),
        (b"- " * 20_000, "not YAML"),
        (b"x" * ((1 << 20) + 1), "the file has more than 1 MiB"),
        (b"cid_configs: [{config_id: 1}]", "cid_configs[0]: server_id_length is missing"),
    ],
)
def test_a_wrong_file(path: Path, content: bytes, fault: str) -> None:
    """The error names the file and the fault."""
    path.write_bytes(content)
    with pytest.raises(CidError) as caught:
        CidGenerator.from_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert fault in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """The error names the file and the reason, for both classes. A pipe or folder cannot be followed."""
    for from_file in (CidGenerator.from_file, RotatingCidGenerator.from_file):
        with pytest.raises(CidError, match=r"missing: cannot be read: No such file or directory"):
            from_file(tmp_path / "missing")
    with pytest.raises(CidError, match="cannot be read: embedded null byte"):
        CidGenerator.from_file("a\0b")
    with pytest.raises(CidError, match="cannot be read: Is a directory"):
        CidGenerator.from_file(tmp_path)
    with pytest.raises(CidError, match="it is not a regular file, so its changes cannot be followed"):
        RotatingCidGenerator.from_file(tmp_path)
    with pytest.raises(CidError, match="there is no config 5; the config IDs are: 1"):
        CidGenerator.from_file(write(tmp_path / "a", printed()), config_id=5)


def write(path: Path, text: str) -> Path:
    """Write a file and return its path."""
    path.write_text(text)
    return path


def test_without_pyyaml(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyYAML, a file in YAML is an error that names both ways out."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(CidError, match="YAML needs PyYAML: pip install PyYAML, or write the file as JSON"):
        CidGenerator.from_file(path)


def test_a_key_that_everyone_can_read(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with a key that other users can read gives a warning, except on a read-only file system."""
    CidGenerator.from_file(path)
    path.chmod(0o644)
    CidGenerator.from_file(path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} contains a key, and every user of this machine can read it: chmod o-rwx it"
    ]
    real = os.statvfs(path)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*real[:8], real.f_flag | os.ST_RDONLY, *real[9:])))
    CidGenerator.from_file(path)
    assert len(caplog.records) == 1
    monkeypatch.setattr(os, "statvfs", lambda _: (path / "gone").stat())
    CidGenerator.from_file(path)
    assert len(caplog.records) == 1


def test_a_changed_file(path: Path, quiet: list[Follower], caplog: pytest.LogCaptureFixture) -> None:
    """A change that stays for two looks is applied, and the log names the new CID config without its key."""
    caplog.set_level(logging.INFO)
    source = RotatingCidGenerator.from_file(path)
    (follower,) = quiet
    replace(path, printed(2))
    follower.look(is_asked=False)
    assert source.params.config_id == 1
    follower.look(is_asked=False)
    assert source.params == CidParams(2, 4, 12, KEYS[2])
    settle(follower)
    (record,) = caplog.records
    assert record.getMessage().endswith(f"config 2 ({source.params.fingerprint}) replaces config 1")
    assert KEYS[2] not in caplog.text


def test_a_file_that_is_being_written(path: Path, quiet: list[Follower], caplog: pytest.LogCaptureFixture) -> None:
    """A half-written file changes nothing: its change does not settle, or it lacks the key. A fault is logged once."""
    source = RotatingCidGenerator.from_file(path)
    (follower,) = quiet
    whole = printed(2)
    for end in range(0, whole.rindex('"'), 7):
        path.write_text(whole[:end])
        settle(follower)
        path.touch()
        settle(follower)
        assert source.params.config_id == 1, whole[:end]
        assert source.generate()[0] >> 5 == 1
    errors = [record.getMessage() for record in caplog.records]
    assert any("key is missing: the file is not complete" in error for error in errors)
    assert all(one != other for one, other in pairwise(errors))
    path.unlink()
    settle(follower)
    path.write_text(whole)
    settle(follower)
    assert source.params.config_id == 2
    assert "cannot be read: No such file" in caplog.text


def test_no_nonce_is_used_twice(path: Path, quiet: list[Follower]) -> None:
    """A file without a difference keeps the generator, and a return to an earlier CID config continues its counter."""
    source = RotatingCidGenerator.from_file(path)
    (follower,) = quiet
    source.generate()
    replace(path, printed() + "# touched\n")
    settle(follower)
    assert source.used == 1
    replace(path, printed(2))
    settle(follower)
    assert source.used == 0
    replace(path, printed())
    settle(follower)
    assert (source.params.config_id, source.used) == (1, 1)
    for number in range(20):
        replace(path, printed(2, key=f"{number:032x}"))
        settle(follower)
    assert source.params.key == bytes(15) + bytes((19,))
    assert len(source._known) == 8


def test_a_length_that_cannot_change(path: Path, quiet: list[Follower], caplog: pytest.LogCaptureFixture) -> None:
    """A QUIC server parses all IDs with one length, so another cid_length is rejected with advice."""
    source = RotatingCidGenerator.from_file(path, worker=WorkerTag(0, 8))
    replace(path, printed(2, cid_length=18))
    settle(quiet[0])
    assert source.params.config_id == 1
    assert "cid_length is 18, and this server was started with 17: restart it" in caplog.text


def test_the_server_id_of_a_process(path: Path, quiet: list[Follower], caplog: pytest.LogCaptureFixture) -> None:
    """The index of the server ID applies to later versions of the file too, and Retry IDs stay reserved."""
    replace(path, printed(ids='"c0ffee01", "c0ffee02"'))
    source = RotatingCidGenerator.from_file(path, server_id_index=1)
    source.reserve_for_retry()
    replace(path, printed(2, ids='"0a000001", "0a000002"'))
    settle(quiet[0])
    assert CidCodec(source.params).decode(source.generate()) == bytes.fromhex("0a000002")
    assert CidCodec(source.params).decode(source.generate_retry()) == bytes.fromhex("0a000002")
    replace(path, printed())
    settle(quiet[0])
    assert "has 1 server IDs, so server_id_index must be from 0 to 0, not 1" in caplog.text


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Return a function that waits for the next line of the log. Looks come only when they are asked for."""
    monkeypatch.setattr(followed, "LOOK_S", LIMIT_S)
    lines: queue.Queue[str] = queue.Queue()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.put(record.getMessage())

    handler, logger = Handler(), logging.getLogger("qlb.cid")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lambda: lines.get(timeout=LIMIT_S)
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_sighup(path: Path, told: Callable[[], str]) -> None:
    """SIGHUP reads the file at once, also without a change; an earlier handler still runs. close() restores it."""
    calls: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: calls.append(number))
    mine = signal.getsignal(signal.SIGHUP)
    try:
        source = RotatingCidGenerator.from_file(path)
        signal.raise_signal(signal.SIGHUP)
        assert told() == f"{path} was read again: no changes"
        replace(path, printed(2))
        signal.raise_signal(signal.SIGHUP)
        assert "config 2" in told()
        assert source.params.config_id == 2
        path.write_text("nonsense")
        for _ in range(2):
            signal.raise_signal(signal.SIGHUP)
            assert told().startswith(f"{path}: the file must be a mapping")
        assert calls == [signal.SIGHUP] * 4
        source.close()
        assert signal.getsignal(signal.SIGHUP) is mine
        source.close()
        assert signal.getsignal(signal.SIGHUP) is mine
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sighup_without_an_earlier_handler(path: Path, told: Callable[[], str]) -> None:
    """SIGHUP no longer ends the process, which is its default action."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        source = RotatingCidGenerator.from_file(path)
        signal.raise_signal(signal.SIGHUP)
        assert told() == f"{path} was read again: no changes"
        source.close()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_without_sighup(path: Path) -> None:
    """The handler is untouched if SIGHUP is not wanted, outside of the main thread, and without a file."""
    before = signal.getsignal(signal.SIGHUP)
    RotatingCidGenerator.from_file(path, on_sighup=False).close()
    assert signal.getsignal(signal.SIGHUP) is before
    found: list[RotatingCidGenerator] = []
    thread = threading.Thread(target=lambda: found.append(RotatingCidGenerator.from_file(path)))
    thread.start()
    thread.join(LIMIT_S)
    assert signal.getsignal(signal.SIGHUP) is before
    found[0].close()
    RotatingCidGenerator(CidGenerator.from_file(path)).close()


def test_the_thread_follows_the_file(path: Path, told: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any signal, the thread finds a change."""
    monkeypatch.setattr(followed, "LOOK_S", 0.01)
    source = RotatingCidGenerator.from_file(path, on_sighup=False)
    replace(path, printed(2))
    assert "config 2" in told()
    assert source.params.config_id == 2
    source.close()


def test_a_source_that_is_gone_ends_its_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread does not keep a source alive, and ends with it."""
    monkeypatch.setattr(followed, "LOOK_S", 0.01)
    before = set(threading.enumerate())
    source = RotatingCidGenerator.from_file(path, on_sighup=False)
    (thread,) = set(threading.enumerate()) - before
    follower = source._follower
    assert follower is not None
    del source
    gc.collect()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    follower.look(is_asked=True)  # applies nothing


def test_a_forked_child_follows_too(path: Path) -> None:
    """A child that was forked after from_file has a thread of its own. One whose source was closed has none."""
    program = f"""
import os, threading
from qlb.cid import RotatingCidGenerator
closed = RotatingCidGenerator.from_file({str(path)!r})
closed.close()
gone = RotatingCidGenerator.from_file({str(path)!r})
del gone
source = RotatingCidGenerator.from_file({str(path)!r})
if not (pid := os.fork()):
    print([thread.name for thread in threading.enumerate()], flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    assert done.stdout == "['MainThread', 'qlb.cid follower']\n"


def test_what_a_forked_child_starts(path: Path, told: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a child, only a source that exists and is not closed starts its thread again."""
    hooks: list[Callable[[], None]] = []
    monkeypatch.setattr(os, "register_at_fork", lambda *, after_in_child: hooks.append(after_in_child))
    closed, gone, source = (RotatingCidGenerator.from_file(path, on_sighup=False) for _ in range(3))
    closed.close()
    gone.close()
    del gone
    gc.collect()
    before = set(threading.enumerate())
    for hook in hooks:
        hook()
    assert len(set(threading.enumerate()) - before) == 1
    assert source._follower is not None
    source._follower.wake()
    assert told() == f"{path} was read again: no changes"
    source.close()


def test_the_former_name() -> None:
    """RotatingGenerator is the same class."""
    assert RotatingGenerator is RotatingCidGenerator
