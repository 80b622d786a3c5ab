"""The generator: no nonce repeats, exhaustion is exact, IDs cannot be linked, and forks are safe."""

import itertools
import os
from collections.abc import Iterator

import pytest

from lab import cid_oracle as oracle
from qlb.cid import CidCodec, CidError, CidGenerator, CidParams, NonceExhausted, WorkerTag, reserved_cid

KEY = bytes(range(16))
ENCRYPTED = CidParams(2, 3, 4, KEY)
PLAINTEXT = CidParams(2, 3, 4)
TAGGED = CidParams(2, 3, 7, KEY)
TAGGED_PLAINTEXT = CidParams(2, 3, 7)
SERVER_ID = b"srv"


def _nonces(params: CidParams, cids: list[bytes]) -> list[int]:
    blocks = [cid[1 : params.block_end] for cid in cids]
    return [int.from_bytes(oracle.decode_block(params.key, b)[params.server_id_length :], "big") for b in blocks]


def _small(params: CidParams, index: int = 5, **options: object) -> CidGenerator:
    """Return a generator with the smallest space that a tag may leave, 2**40: seven octets less a tag of 16 bits."""
    options.setdefault("nonce_key", None if params.key else KEY)
    return CidGenerator(params, SERVER_ID, worker=WorkerTag(index, 16), **options)  # type: ignore[arg-type]


def _near_the_end(generator: CidGenerator, left: int) -> CidGenerator:
    """Skip all nonces but the last ones, as if they had been issued."""
    generator._issued = generator.used + generator.left - left
    generator._counter = itertools.count(generator._issued)
    return generator


def test_ids_decode_to_the_server() -> None:
    """Each ID is routable, has the configured length, and is new."""
    generator = CidGenerator(CidParams(1, 3, 9, KEY, length_self_encoded=True, cid_length=18), SERVER_ID)
    cids = [generator.generate() for _ in range(500)]
    assert set(map(CidCodec(generator.params).decode, cids)) == {SERVER_ID}
    assert {len(cid) for cid in cids} == {18}
    assert {cid[0] for cid in cids} == {1 << 5 | 17}
    assert len(set(cids)) == 500


def test_encrypted_nonces_count_up_from_a_random_start() -> None:
    """Nonces rise by one, and continue at zero after the largest."""
    randoms: Iterator[bytes] = iter([b"\xff\xff\xff\xfe"])

    def random_bytes(count: int) -> bytes:
        return next(randoms, os.urandom(count)) if count == 4 else os.urandom(count)

    generator = CidGenerator(ENCRYPTED, SERVER_ID, random_bytes=random_bytes)
    cids = [generator.generate() for _ in range(4)]
    assert _nonces(ENCRYPTED, cids) == [2**32 - 2, 2**32 - 1, 0, 1]


def test_exhaustion_is_exact() -> None:
    """Each nonce of the space is used once; used and left are exact up to the last."""
    generator = _small(TAGGED)
    assert (generator.used, generator.left) == (0, 2**40)
    first = _nonces(TAGGED, [generator.generate()])[0]
    _near_the_end(generator, 5000)
    # With one key and one server ID the block is a permutation of the nonce: unique blocks mean unique nonces.
    last = [generator.generate() for _ in range(5000)]
    assert len({cid[1:] for cid in last}) == 5000
    assert (generator.used, generator.left) == (2**40, 0)
    assert (first - _nonces(TAGGED, last)[-1]) % 2**40 == 1, "the last nonce is next to the first"
    for _ in range(2):
        with pytest.raises(NonceExhausted, match=f"{2**40} nonces of config ID 2"):
            generator.generate()
    assert generator.left == 0


def test_exhaustion_of_plaintext_nonces() -> None:
    """The permuted counter is exhausted just as exactly."""
    generator = _near_the_end(_small(TAGGED_PLAINTEXT), 100)
    assert len({generator.generate()[1:] for _ in range(100)}) == 100
    assert generator.left == 0
    with pytest.raises(NonceExhausted):
        generator.generate()


def test_fall_over_to_the_reserved_config() -> None:
    """With ``reserved``, an exhausted generator issues random IDs under 0b111 that encode their length."""
    generator = _near_the_end(_small(CidParams(2, 3, 7, KEY, cid_length=12), on_exhaustion="reserved"), 1)
    assert generator.generate()[0] >> 5 == 2
    cids = [generator.generate() for _ in range(50)]
    assert {cid[0] for cid in cids} == {0b111_00000 | 11}
    assert {len(cid) for cid in cids} == {12}
    assert len(set(cids)) == 50


def test_reserved_ids_have_seven_octets_of_chance_at_least() -> None:
    """An ID under 0b111 has at least 8 octets, because shorter ones would collide."""
    generator = CidGenerator(CidParams(2, 1, 4, KEY), b"s", on_exhaustion="reserved")
    assert len(_near_the_end(generator, 0).generate()) == 8
    for length in (7, 21):
        with pytest.raises(CidError, match="8 to 20"):
            reserved_cid(length)


def test_plaintext_nonces_show_no_counter() -> None:
    """Successive nonces differ in about half of their bits, as random ones would."""
    generator = CidGenerator(PLAINTEXT, SERVER_ID)
    nonces = _nonces(PLAINTEXT, [generator.generate() for _ in range(2000)])
    flips = sum((a ^ b).bit_count() for a, b in itertools.pairwise(nonces)) / (len(nonces) - 1)
    assert 15 < flips < 17
    assert len(set(nonces)) == len(nonces)


@pytest.mark.parametrize("params", [TAGGED, TAGGED_PLAINTEXT], ids=["encrypted", "plaintext"])
def test_worker_tags_keep_processes_apart(params: CidParams) -> None:
    """Two workers with one server ID never issue the same ID, wherever their counters start."""
    ids = [{generator.generate()[1:] for _ in range(3000)} for generator in (_small(params, 1), _small(params, 2))]
    assert not ids[0] & ids[1]
    if params.key:
        assert {nonce >> 40 for nonce in _nonces(params, [b"\0" + block for block in ids[0]])} == {1}


@pytest.mark.parametrize("tag", [WorkerTag(0, 0), WorkerTag(0, 17), WorkerTag(2, 1), WorkerTag(-1, 4)])
def test_impossible_tags(tag: WorkerTag) -> None:
    """A tag must have 1 to 16 bits and an index that fits."""
    with pytest.raises(CidError, match="worker tag"):
        CidGenerator(TAGGED, SERVER_ID, worker=tag)


@pytest.mark.parametrize(
    ("nonce_length", "bits", "least"), [(4, 1, 6), (4, 16, 7), (5, 1, 6), (6, 9, 7), (6, 16, 7), (5, 8, 6)]
)
@pytest.mark.parametrize("key", [KEY, None], ids=["encrypted", "plaintext"])
def test_tags_that_leave_too_few_nonces(nonce_length: int, bits: int, least: int, key: bytes | None) -> None:
    """A worker tag that leaves fewer than 2^40 nonces is an error, which names the shortest nonce_length that works."""
    tag = WorkerTag(1, bits)
    with pytest.raises(CidError, match=rf"2\^40 must remain: set nonce_length to {least}, or use fewer bits"):
        CidGenerator(CidParams(2, 3, nonce_length, key), SERVER_ID, worker=tag, nonce_key=KEY)
    fitting = CidGenerator(CidParams(2, 3, least, key), SERVER_ID, worker=tag, nonce_key=KEY)
    assert fitting.left == 2 ** (8 * least - bits) >= 2**40


def test_without_a_tag_every_length_is_taken() -> None:
    """Without a tag, the draft's minimum of four octets is accepted; only qlb check warns."""
    assert CidGenerator(ENCRYPTED, SERVER_ID).left == 2**32


def test_shared_plaintext_needs_a_shared_key() -> None:
    """Two random permutations could collide, so a shared nonce_key of 16 octets is required."""
    with pytest.raises(CidError, match="nonce_key"):
        CidGenerator(TAGGED_PLAINTEXT, SERVER_ID, worker=WorkerTag(1, 4))
    with pytest.raises(CidError, match="16 octets"):
        CidGenerator(PLAINTEXT, SERVER_ID, nonce_key=b"short")


def test_wrong_arguments() -> None:
    """A server ID of another length and an unknown on_exhaustion are rejected."""
    with pytest.raises(CidError, match="server ID has 2"):
        CidGenerator(ENCRYPTED, b"ab")
    with pytest.raises(CidError, match="on_exhaustion"):
        CidGenerator(ENCRYPTED, SERVER_ID, on_exhaustion="shrug")  # type: ignore[arg-type]


def test_fork() -> None:
    """Parent and forked child issue different IDs, and each counts its own nonces."""
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
        received = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    child_ids = {received[at : at + 16] for at in range(0, 1600, 16)}
    assert received[-1] == 100
    assert len(child_ids) == 100
    assert not child_ids & {generator.generate()[1:] for _ in range(100)}
    assert generator.used == 101


def test_a_new_process_is_noticed_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed process ID makes the generator start at another nonce, even without a fork."""
    generator = CidGenerator(ENCRYPTED, SERVER_ID)
    before = _nonces(ENCRYPTED, [generator.generate()])[0]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    after = _nonces(ENCRYPTED, [generator.generate()])[0]
    assert after != before + 1
    assert generator.used == 1
