"""The generator at the edges of its space: past zero, beside another worker's share, with threads and forks."""

import itertools
import os
import warnings
from collections.abc import Callable

import pytest

from lab import cid_oracle as oracle
from qlb.cid import CidGenerator, CidParams, NonceExhausted, WorkerTag

KEY = bytes(range(16))
ENCRYPTED = CidParams(2, 3, 4, KEY)
PLAINTEXT = CidParams(2, 3, 4)
TAGGED = CidParams(2, 3, 6, KEY)
TAGGED_PLAINTEXT = CidParams(2, 3, 6)


def _starting_at(start: int) -> Callable[[int], bytes]:
    """Return a random source with which a counter of four or six octets starts at a given number."""
    return lambda size: start.to_bytes(size, "big") if size in (4, 6) else os.urandom(size)


def _nonce(cid: bytes) -> int:
    found = oracle.decode(KEY, 3, len(cid) - 4, cid)
    assert found is not None
    return int.from_bytes(found[1], "big")


def _near_the_end(generator: CidGenerator, left: int) -> CidGenerator:
    """Use all nonces but a few."""
    generator._counter = itertools.count(generator._space - left)
    generator._issued = generator._space - left
    return generator


@pytest.mark.parametrize("index", [0, 5, 15])
def test_wrap_around_stays_in_the_workers_share(index: int) -> None:
    """After the last nonce of its share a worker continues at the first one of its share."""
    last = 2**44 - 1
    generator = CidGenerator(TAGGED, b"srv", worker=WorkerTag(index, 4), random_bytes=_starting_at(last - 1))
    nonces = [_nonce(generator.generate()) for _ in range(4)]
    assert nonces == [index << 44 | low for low in (last - 1, last, 0, 1)]


@pytest.mark.parametrize("params", [ENCRYPTED, PLAINTEXT], ids=["encrypted", "plaintext"])
def test_the_last_nonce_of_a_whole_space(params: CidParams) -> None:
    """Without a tag there are 2**32 nonces; used and left count exactly to the last."""
    generator = _near_the_end(CidGenerator(params, b"srv"), 2)
    assert (generator.used, generator.left) == (2**32 - 2, 2)
    assert len({generator.generate()[1:], generator.generate()[1:]}) == 2
    assert (generator.used, generator.left) == (2**32, 0)
    with pytest.raises(NonceExhausted, match=r"all 4294967296 nonces of config ID 2 are used"):
        generator.generate()


@pytest.mark.parametrize(("cid_length", "issued"), [(0, 8), (9, 9), (20, 20)])
def test_reserved_ids_are_at_least_8_and_at_most_as_long_as_configured(cid_length: int, issued: int) -> None:
    """An ID under 0b111 encodes its length whatever the CID config requires."""
    generator = CidGenerator(CidParams(2, 1, 4, KEY, cid_length=cid_length), b"s", on_exhaustion="reserved")
    cids = [_near_the_end(generator, 0).generate() for _ in range(20)]
    assert {(len(cid), cid[0]) for cid in cids} == {(issued, 0b111_00000 | issued - 1)}
    assert len(set(cids)) == 20


def test_tags_keep_apart_from_the_same_start() -> None:
    """Workers with the same random start and the same nonce_key issue different IDs."""
    for params in (TAGGED, TAGGED_PLAINTEXT):
        issued = [
            CidGenerator(params, b"srv", worker=WorkerTag(n, 3), nonce_key=KEY, random_bytes=_starting_at(7))
            for n in range(8)
        ]
        blocks = [generator.generate()[1:] for generator in issued for _ in range(100)]
        assert len(set(blocks)) == 800


def test_plaintext_nonces_do_not_come_in_order() -> None:
    """Nonces neither rise nor fall, and no difference between successive ones repeats."""
    generator = CidGenerator(PLAINTEXT, b"srv", random_bytes=_starting_at(0))
    nonces = [int.from_bytes(generator.generate()[4:8], "big") for _ in range(500)]
    steps = [(b - a) % 2**32 for a, b in itertools.pairwise(nonces)]
    assert len(set(steps)) == len(steps)
    assert 200 < sum(a < b for a, b in itertools.pairwise(nonces)) < 300


@pytest.mark.parametrize("params", [ENCRYPTED, PLAINTEXT], ids=["encrypted", "plaintext"])
def test_children_and_grandchildren_start_elsewhere(params: CidParams) -> None:
    """Three processes that continue with one generator after two forks share no ID."""
    generator = CidGenerator(CidParams(2, 3, 12, params.key), b"srv")
    generator.generate()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the test runner may have threads
        child = os.fork()
    if not child:
        grandchild = os.fork()
        os.write(writer, b"".join(generator.generate()[1:] for _ in range(100)))
        if grandchild:
            os.waitpid(grandchild, 0)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        received = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    blocks = [received[at : at + 15] for at in range(0, len(received), 15)]
    blocks += [generator.generate()[1:] for _ in range(100)]
    assert len(set(blocks)) == len(blocks) == 300
