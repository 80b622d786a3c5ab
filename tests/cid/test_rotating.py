"""RotatingCidGenerator: a source of IDs that changes its CID config while it runs."""

from qlb.cid import CidCodec, CidGenerator, CidParams, RotatingCidGenerator

OLD = CidParams(1, 4, 12, bytes(16))
NEW = CidParams(2, 4, 8, bytes(range(16)), cid_length=17)
SERVER_ID = b"\xc0\xff\xee\x01"


def test_ids_come_from_the_present_configuration() -> None:
    """IDs and the numbers of nonces are those of the current generator."""
    source = RotatingCidGenerator(CidGenerator(OLD, SERVER_ID))
    first = source.generate()
    assert (source.params, source.server_id, source.used) == (OLD, SERVER_ID, 1)
    assert source.left == 256**12 - 1
    source.rotate(CidGenerator(NEW, SERVER_ID))
    second = source.generate()
    assert (first[0] >> 5, second[0] >> 5) == (1, 2)
    assert CidCodec(NEW).decode(second) == CidCodec(OLD).decode(first) == SERVER_ID
    assert (source.params, source.used, source.left) == (NEW, 1, 256**8 - 1)
