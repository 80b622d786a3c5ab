"""C and Python agree on constants and layouts."""

import sys
from pathlib import Path

import pytest

from lab.constants import LAYOUTS, generated
from qlb.dataplane.core import table


@pytest.mark.parametrize(("path", "text"), generated().items(), ids=lambda value: getattr(value, "name", ""))
def test_a_generated_file_is_current(path: Path, text: str) -> None:
    """The committed file is the one that `make generate` writes. The compiler checks the layouts in it."""
    assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: run `make generate`"


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_struct_fills_whole_words(layout: table.Layout) -> None:
    """The size of every struct is a multiple of 8 octets, so that structs in a row stay aligned."""
    assert layout.size_bytes % 8 == 0


def test_the_magic_number_shows_the_byte_order() -> None:
    """On this machine, the magic number has the same value as in C."""
    assert table.MAGIC.to_bytes(4, sys.byteorder) == (b"QLBT" if sys.byteorder == "little" else b"TBLQ")
