"""Sections: what their annotations and defaults mean."""

from dataclasses import FrozenInstanceError, replace
from typing import Annotated, Literal

import pytest

from qlb.config.fields import Section, field, fields_of, section_of
from qlb.config.model import Config
from qlb.config.scalars import BOOLEAN, Scalar, whole_number

SMALL = whole_number(0, 9)


class Inner(Section):
    """A section below another one."""

    on: Annotated[bool, BOOLEAN] = False


class Outer(Section):
    """A section with every form of a field."""

    number: Annotated[int, SMALL]
    word: Annotated[int | Literal["auto"], SMALL] = "auto"
    numbers: tuple[Annotated[int, SMALL], ...] = field(min_length=1, max_length=3, examples=[[1, 2]])
    secret: Annotated[int | None, SMALL] = field(default=None, repr=False)
    inner: Inner = Inner()
    inners: tuple[Inner, ...] = ()


def test_the_form_of_each_field() -> None:
    """A field has the kind of its annotation, or a section. A tuple is a list of them."""
    fields = fields_of(Outer)
    assert list(fields) == ["number", "word", "numbers", "secret", "inner", "inners"]
    assert [name for name, one in fields.items() if one.form is SMALL] == ["number", "word", "numbers", "secret"]
    assert [name for name, one in fields.items() if one.is_list] == ["numbers", "inners"]
    assert [name for name, one in fields.items() if one.required] == ["number", "numbers"]
    assert (section_of(Outer, "inner"), section_of(Outer, "inners"), section_of(Outer, "word")) == (Inner, Inner, None)
    assert (fields["word"].default, fields["inner"].default) == ("auto", Inner())
    assert fields["numbers"].limits == ([[1, 2]], 1, 3)


def test_a_section_is_frozen_and_compares_by_value() -> None:
    """A section cannot be changed, but copied with changes. A secret has no repr."""
    one = Outer(number=1, numbers=(2,), secret=7)
    with pytest.raises(FrozenInstanceError):
        setattr(one, "number", 2)  # noqa: B010 - mypy would reject the plain form
    with pytest.raises(TypeError):
        Outer(1, numbers=(2,))  # type: ignore[misc]
    assert replace(one, number=2) == Outer(number=2, numbers=(2,), secret=7) != one
    assert "7" not in repr(one)


def test_every_field_of_the_configuration_has_a_form() -> None:
    """No field of the model lacks its kind: an annotation without one would be read as a section."""
    todo: list[type[Section]] = [Config]
    while todo:
        for name, one in fields_of(todo.pop()).items():
            if one.section is not None:
                assert issubclass(one.section, Section), name
                todo.append(one.section)
            else:
                assert isinstance(one.form, Scalar) or name == "server_ids"
