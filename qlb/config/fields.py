"""The fields of a section: frozen dataclasses state their types, kinds, defaults and limits in annotations.

A section is a class below Section. Each field is one key of its mapping in the YAML:

>>> class Example(Section):
...     interval: Annotated[float, duration("10ms", "24h")] = 2.0
...     names: tuple[Annotated[str, NAME], ...] = field(min_length=1, examples=[["agent-a"]])

A library for such models takes longer to import than everything else that `qlb check` does. qlb needs little of it,
because the kinds in qlb.config.scalars and qlb.config.names read and describe every scalar.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, NamedTuple, dataclass_transform, get_args, get_origin

from qlb.config.scalars import Scalar

_MISSING: Final = dataclasses.MISSING


class Limits(NamedTuple):
    """The metadata of a field. examples: values in the form of the YAML. lengths: of a list."""

    examples: Sequence[object] = ()
    min_length: int = 0
    max_length: int | None = None


def field(
    *,
    default: object = _MISSING,
    default_factory: Callable[[], object] | None = None,
    examples: Sequence[object] = (),
    min_length: int = 0,
    max_length: int | None = None,
    repr: bool = True,  # noqa: A002 (the name that dataclasses use)
) -> Any:  # noqa: ANN401 (it is the field's value for a type checker)
    """State a field whose default is not enough. repr: false for a secret. The others are described in Limits."""
    metadata = {"limits": Limits(examples, min_length, max_length)}
    if default_factory is not None:
        return dataclasses.field(default_factory=default_factory, repr=repr, metadata=metadata)
    return dataclasses.field(default=default, repr=repr, metadata=metadata)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Section:
    """A mapping of the YAML. Each subclass becomes a frozen dataclass with keyword arguments only."""

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    _fields: ClassVar["Mapping[str, Field]"]

    def __init_subclass__(cls) -> None:
        """Make a frozen dataclass of the subclass, and read its annotations."""
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        cls._fields = MappingProxyType({one.name: _field(one) for one in dataclasses.fields(cls)})


class Table(NamedTuple):
    """The form of a mapping from one kind of scalars to lists of another. A list of one item may be only that item.

    read_only: converts the mapping that was read. schema: its JSON Schema.
    """

    key: Scalar[Any]
    item: Scalar[Any]
    read_only: Callable[[Any], object]
    schema: Mapping[str, object]


class Field(NamedTuple):
    """One field. form: of its value, or of each item if is_list. required: the key has no default."""

    form: "Scalar[Any] | Table | type[Section]"
    is_list: bool
    required: bool
    default: object
    limits: Limits

    @property
    def section(self) -> type[Section] | None:
        """The section below this key, or in its list; None for every other field."""
        return self.form if isinstance(self.form, type) else None


def fields_of(section: type[Section]) -> Mapping[str, Field]:
    """Return the fields of a section by their keys, in the order of the class."""
    return section._fields


def section_of(section: type[Section], name: str) -> type[Section] | None:
    """Return the section of a field that is a mapping or a list of mappings; None for every other field."""
    return fields_of(section)[name].section


def _field(one: "dataclasses.Field[Any]") -> Field:
    annotation: Any = one.type
    assert not isinstance(annotation, str), "a module of sections does not postpone annotations: they are read here"
    is_list = get_origin(annotation) is tuple
    item = get_args(annotation)[0] if is_list else annotation
    form = item.__metadata__[0] if get_origin(item) is Annotated else item
    required = one.default is _MISSING and one.default_factory is _MISSING
    return Field(form, is_list, required, one.default, one.metadata.get("limits", Limits()))
