"""IDs of Retry packets have nonces of their own, so that clients cannot use up those of connections."""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab import cid_oracle as oracle
from qlb.cid import CidCodec, CidGenerator, CidParams, NonceExhausted, RotatingCidGenerator, WorkerTag

KEY = bytes(range(16))
SERVER_ID = b"srv"
ENCRYPTED = CidParams(2, 3, 4, KEY)
PLAINTEXT = CidParams(2, 3, 4)
SHARE = 2**28
"""One sixteenth of 2 ** 32."""
BOTH = pytest.mark.parametrize("params", [ENCRYPTED, PLAINTEXT], ids=["encrypted", "plaintext"])


def _starting_at(start: int) -> Callable[[int], bytes]:
    return lambda size: start.to_bytes(size, "big") if size == 4 else os.urandom(size)


def _nonce(cid: bytes) -> int:
    found = oracle.decode(KEY, 3, len(cid) - 4, cid)
    assert found is not None
    return int.from_bytes(found[1], "big")


def _skip_to(generator: CidGenerator, issued: int) -> None:
    """Continue as if this number of connection IDs had been issued."""
    generator._counter = itertools.count(issued)
    generator._issued = issued


@BOTH
def test_retries_take_nothing_from_connections(params: CidParams) -> None:
    """The reserve takes a sixteenth from connections at once, and a Retry packet takes nothing more."""
    generator = CidGenerator(params, SERVER_ID)
    generator.reserve_for_retry()
    assert (generator.used, generator.left) == (0, 2**32 - SHARE)
    cids = [generator.generate_retry() for _ in range(1000)]
    assert (generator.used, generator.left) == (0, 2**32 - SHARE)
    assert set(map(CidCodec(params).decode, cids)) == {SERVER_ID}
    others = {generator.generate()[1:] for _ in range(1000)}
    assert len({cid[1:] for cid in cids}) == len(others) == 1000
    assert not {cid[1:] for cid in cids} & others


def test_the_spaces_meet_and_do_not_overlap() -> None:
    """Connections count up from the start, Retry packets count down from it; their last nonces are adjacent."""
    generator = CidGenerator(ENCRYPTED, SERVER_ID, random_bytes=_starting_at(1))
    generator.reserve_for_retry()
    assert [_nonce(generator.generate_retry()) for _ in range(3)] == [0, 2**32 - 1, 2**32 - 2]
    assert [_nonce(generator.generate()) for _ in range(2)] == [1, 2]
    _skip_to(generator, 2**32 - SHARE - 1)
    generator._retry_counter = itertools.count(SHARE - 1)
    last, last_retry = _nonce(generator.generate()), _nonce(generator.generate_retry())
    assert (last, last_retry) == (2**32 - SHARE, 2**32 - SHARE + 1)
    with pytest.raises(NonceExhausted, match=f"all {2**32 - SHARE} nonces"):
        generator.generate()


@pytest.mark.parametrize("index", [0, 5, 15])
def test_retries_stay_in_the_workers_share(index: int) -> None:
    """Below the first nonce of its share a worker continues at the last one of its share."""
    params = CidParams(2, 3, 6, KEY)
    start = lambda size: bytes(size) if size == 6 else os.urandom(size)  # noqa: E731
    generator = CidGenerator(params, SERVER_ID, worker=WorkerTag(index, 4), random_bytes=start)
    generator.reserve_for_retry()
    assert [_nonce(generator.generate_retry()) for _ in range(2)] == [index << 44 | 2**44 - 1, index << 44 | 2**44 - 2]


@BOTH
@pytest.mark.parametrize("on_exhaustion", ["raise", "reserved"])
def test_when_they_are_used_up(params: CidParams, on_exhaustion: str) -> None:
    """Retry packets then have unroutable IDs without an error, and connections are not affected."""
    generator = CidGenerator(params, SERVER_ID, on_exhaustion=on_exhaustion)  # type: ignore[arg-type]
    generator.reserve_for_retry()
    generator._retry_counter = itertools.count(SHARE - 1)
    assert generator.generate_retry()[0] >> 5 == 2
    cids = [generator.generate_retry() for _ in range(20)]
    assert {(cid[0] >> 5, len(cid)) for cid in cids} == {(7, 8)}
    assert len(set(cids)) == 20
    assert CidCodec(params).decode(generator.generate()) == SERVER_ID


def test_connections_that_are_used_up_leave_retries_alone() -> None:
    """Retry packets are not affected when the nonces of connections are used up."""
    generator = CidGenerator(ENCRYPTED, SERVER_ID)
    generator.reserve_for_retry()
    _skip_to(generator, 2**32 - SHARE)
    with pytest.raises(NonceExhausted):
        generator.generate()
    assert generator.left == 0
    assert CidCodec(ENCRYPTED).decode(generator.generate_retry()) == SERVER_ID


def test_without_a_reserve_retries_are_unroutable() -> None:
    """Without a reserve, Retry packets have unroutable IDs and use no nonces."""
    generator = CidGenerator(ENCRYPTED, SERVER_ID)
    assert generator.generate_retry()[0] >> 5 == 7
    assert generator.left == 2**32


@pytest.mark.parametrize(("issued", "left"), [(2**32 - SHARE, 0), (2**32 - SHARE + 1, SHARE - 1), (2**32, 0)])
def test_a_reserve_that_comes_late(issued: int, left: int) -> None:
    """Nothing is reserved when connections have used too many nonces already."""
    generator = CidGenerator(ENCRYPTED, SERVER_ID)
    _skip_to(generator, issued)
    for _ in range(2):
        generator.reserve_for_retry()
    assert generator.left == left
    assert (generator.generate_retry()[0] >> 5 == 7) is (issued > 2**32 - SHARE)


def test_threads_draw_no_nonce_twice() -> None:
    """Four threads for Retry packets and four for connections never draw the same nonce."""
    generator = CidGenerator(ENCRYPTED, SERVER_ID)
    generator.reserve_for_retry()
    with ThreadPoolExecutor(8) as pool:
        draws = [pool.submit(lambda one: [one()[1:] for _ in range(2000)], one) for one in _both(generator) * 4]
        cids = [cid for draw in draws for cid in draw.result()]
    assert len(set(cids)) == len(cids) == 16_000


def _both(generator: CidGenerator) -> list[Callable[[], bytes]]:
    return [generator.generate, generator.generate_retry]


def test_a_forked_child_starts_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked child starts its Retry IDs at another nonce and has its own reserve."""
    generator = CidGenerator(CidParams(2, 3, 12, KEY), SERVER_ID)
    generator.reserve_for_retry()
    before = [_nonce(generator.generate_retry()) for _ in range(2)]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    after = _nonce(generator.generate_retry())
    assert after not in (before[1] - 1, *before)
    assert generator.left == 15 * 256**12 // 16


def test_a_rotation_keeps_the_reserve() -> None:
    """The next generator reserves nonces too, but only if the server uses Retry."""
    old, new = (CidGenerator(CidParams(n, 3, 12, bytes([n] * 16)), SERVER_ID) for n in (1, 2))
    source = RotatingCidGenerator(old)
    source.reserve_for_retry()
    assert source.generate_retry()[0] >> 5 == 1
    source.rotate(new)
    assert source.generate_retry()[0] >> 5 == 2
    assert source.left == 15 * 256**12 // 16
    plain = RotatingCidGenerator(CidGenerator(ENCRYPTED, SERVER_ID))
    plain.rotate(CidGenerator(ENCRYPTED, SERVER_ID))
    assert plain.left == 2**32
