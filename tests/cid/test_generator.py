"""The generator: no nonce twice, exhaustion to the number, nothing to link, safe over fork."""

import itertools
import os
from collections.abc import Iterator

import pytest

from qlb.cid import CidCodec, CidError, CidGenerator, CidParams, NonceExhausted, WorkerTag, reserved_cid
from tests.cid import oracle

KEY = bytes(range(16))
ENCRYPTED = CidParams(2, 3, 4, KEY)
PLAINTEXT = CidParams(2, 3, 4)
SERVER_ID = b"srv"


def _nonces(params: CidParams, cids: list[bytes]) -> list[int]:
    blocks = [cid[1 : params.block_end] for cid in cids]
    return [int.from_bytes(oracle.decode_block(params.key, b)[params.server_id_length :], "big") for b in blocks]


def _small(params: CidParams, index: int = 5, **options: object) -> CidGenerator:
    """A generator whose space is 2 ** 16: a four-octet nonce less a tag of 16 bits."""
    options.setdefault("nonce_key", None if params.key else KEY)
    return CidGenerator(params, SERVER_ID, worker=WorkerTag(index, 16), **options)  # type: ignore[arg-type]


def _near_the_end(generator: CidGenerator, left: int) -> CidGenerator:
    """Skip all but the last nonces, as if they had been issued."""
    generator._counter = itertools.count(2**16 - left)
    generator._issued = 2**16 - left
    return generator


def test_ids_decode_to_the_server() -> None:
    """Each ID is routable, of the configured length, and different."""
    generator = CidGenerator(CidParams(1, 3, 9, KEY, length_self_encoded=True, cid_length=18), SERVER_ID)
    cids = [generator.generate() for _ in range(500)]
    assert CidCodec(generator.params).decode_batch(cids) == [SERVER_ID] * 500
    assert {len(cid) for cid in cids} == {18}
    assert {cid[0] for cid in cids} == {1 << 5 | 17}
    assert len(set(cids)) == 500


def test_encrypted_nonces_count_up_from_a_random_start() -> None:
    """One step each, past zero where the start was near the end."""
    randoms: Iterator[bytes] = iter([b"\xff\xff\xff\xfe"])

    def random_bytes(count: int) -> bytes:
        return next(randoms, os.urandom(count)) if count == 4 else os.urandom(count)

    generator = CidGenerator(ENCRYPTED, SERVER_ID, random_bytes=random_bytes)
    cids = [generator.generate() for _ in range(4)]
    assert _nonces(ENCRYPTED, cids) == [2**32 - 2, 2**32 - 1, 0, 1]


def test_exhaustion_is_exact() -> None:
    """Every nonce of the space is used once, and not one more; the budget is told all the way."""
    generator = _small(ENCRYPTED)
    assert (generator.used, generator.left) == (0, 2**16)
    # One key and one server ID: the block is a permutation of the nonce, so as many blocks are as many nonces.
    assert len({generator.generate()[1:] for _ in range(2**16)}) == 2**16
    assert (generator.used, generator.left) == (2**16, 0)
    for _ in range(2):
        with pytest.raises(NonceExhausted, match="65536 nonces of config ID 2"):
            generator.generate()
    assert generator.left == 0


def test_exhaustion_of_plaintext_nonces() -> None:
    """The permuted counter ends just as exactly."""
    generator = _near_the_end(_small(PLAINTEXT), 100)
    assert len({generator.generate()[1:] for _ in range(100)}) == 100
    assert generator.left == 0
    with pytest.raises(NonceExhausted):
        generator.generate()


def test_fall_over_to_the_reserved_config() -> None:
    """When asked to, an exhausted generator issues IDs under 0b111 that encode their length and are random."""
    generator = _near_the_end(_small(CidParams(2, 3, 4, KEY, cid_length=12), on_exhaustion="reserved"), 1)
    assert generator.generate()[0] >> 5 == 2
    cids = [generator.generate() for _ in range(50)]
    assert {cid[0] for cid in cids} == {0b111_00000 | 11}
    assert {len(cid) for cid in cids} == {12}
    assert len(set(cids)) == 50


def test_reserved_ids_have_seven_octets_of_chance_at_least() -> None:
    """Shorter ones would collide: the shortest configuration falls over to IDs of 8 octets."""
    generator = CidGenerator(CidParams(2, 1, 4, KEY), b"s", worker=WorkerTag(0, 16), on_exhaustion="reserved")
    assert len(_near_the_end(generator, 0).generate()) == 8
    for length in (7, 21):
        with pytest.raises(CidError, match="8 to 20"):
            reserved_cid(length)


def test_plaintext_nonces_show_no_counter() -> None:
    """Neighbours differ in about half of their bits, as chance would have it."""
    generator = CidGenerator(PLAINTEXT, SERVER_ID)
    nonces = _nonces(PLAINTEXT, [generator.generate() for _ in range(2000)])
    flips = sum((a ^ b).bit_count() for a, b in itertools.pairwise(nonces)) / (len(nonces) - 1)
    assert 15 < flips < 17
    assert len(set(nonces)) == len(nonces)


@pytest.mark.parametrize("params", [ENCRYPTED, PLAINTEXT], ids=["encrypted", "plaintext"])
def test_worker_tags_keep_processes_apart(params: CidParams) -> None:
    """Two workers with one server ID issue no ID in common, at whatever places their counters are."""
    ids = [{generator.generate()[1:] for _ in range(3000)} for generator in (_small(params, 1), _small(params, 2))]
    assert not ids[0] & ids[1]
    if params.key:
        assert {nonce >> 16 for nonce in _nonces(params, [b"\0" + block for block in ids[0]])} == {1}


@pytest.mark.parametrize("tag", [WorkerTag(0, 0), WorkerTag(0, 17), WorkerTag(2, 1), WorkerTag(-1, 4)])
def test_impossible_tags(tag: WorkerTag) -> None:
    """A tag has 1 to 16 bits, and an index that fits."""
    with pytest.raises(CidError, match="worker tag"):
        CidGenerator(ENCRYPTED, SERVER_ID, worker=tag)


def test_shared_plaintext_needs_a_shared_key() -> None:
    """Two random permutations could meet: refused; and a permutation's key has 16 octets."""
    with pytest.raises(CidError, match="nonce_key"):
        CidGenerator(PLAINTEXT, SERVER_ID, worker=WorkerTag(1, 4))
    with pytest.raises(CidError, match="16 octets"):
        CidGenerator(PLAINTEXT, SERVER_ID, nonce_key=b"short")


def test_wrong_arguments() -> None:
    """A server ID of another length, and an unknown wish for the end, are refused."""
    with pytest.raises(CidError, match="server ID has 2"):
        CidGenerator(ENCRYPTED, b"ab")
    with pytest.raises(CidError, match="on_exhaustion"):
        CidGenerator(ENCRYPTED, SERVER_ID, on_exhaustion="shrug")  # type: ignore[arg-type]


def test_fork() -> None:
    """A forked child starts elsewhere: parent and child issue nothing in common, and the child's budget is its own."""
    generator = CidGenerator(CidParams(2, 3, 13, KEY), SERVER_ID)
    generator.generate()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        cids = b"".join(generator.generate()[1:] for _ in range(100))
        os.write(writer, cids + bytes([generator.used]))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    theirs = {told[at : at + 16] for at in range(0, 1600, 16)}
    assert told[-1] == 100
    assert len(theirs) == 100
    assert not theirs & {generator.generate()[1:] for _ in range(100)}
    assert generator.used == 101


def test_a_new_process_is_noticed_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same without a fork: another process ID means another start."""
    generator = CidGenerator(ENCRYPTED, SERVER_ID)
    before = _nonces(ENCRYPTED, [generator.generate()])[0]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    after = _nonces(ENCRYPTED, [generator.generate()])[0]
    assert after != before + 1
    assert generator.used == 1
