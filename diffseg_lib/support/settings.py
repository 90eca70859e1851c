"""Settings as checked values: frozen dataclasses whose fields pydantic holds to their types and ranges, and whose errors are one sentence each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import field, fields
from typing import Annotated, Any, TypeVar, dataclass_transform, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, GetPydanticSchema, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import core_schema

from .errors import nearest

Class = TypeVar("Class")
NAMES = {"integer": "an integer", "number": "a number", "boolean": "True or False", "string": "text", "array": "a list", "object": "a mapping", "null": "None"}


def _plain(value: Any) -> Any:
    """NumPy's scalars as Python's, lists as tuples."""
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return value.item()
    return tuple(value) if isinstance(value, list) else value


def _stride(key: Any) -> Any:
    """A key as JSON writes it, as the integer that it was."""
    return int(key) if isinstance(key, str) and key.isdecimal() else _plain(key)


def one_of(names: Collection[str]) -> Any:
    """The mark of a text that is one of several, as in ``Annotated[str, one_of(NAMES)]``."""
    return GetPydanticSchema(lambda source, handler: core_schema.literal_schema(list(names)))


# The mark of what is taken as it is, such as a model, if it is of the class: ``Annotated[Model, OBJECT]``.
OBJECT = GetPydanticSchema(
    lambda source, handler: core_schema.is_instance_schema(source), lambda schema, handler: {"description": f"an object of {schema['cls'].__name__}"}
)
PLAIN = BeforeValidator(_plain)  # comes last, so that bounds stay in the schema that errors are worded from
Integer = Annotated[int, PLAIN]
Number = Annotated[float, PLAIN]
NotNegativeInteger = Annotated[int, Field(ge=0), PLAIN]
Count = Annotated[int, Field(ge=1), PLAIN]
Share = Annotated[float, Field(ge=0, le=1), PLAIN]
Positive = Annotated[float, Field(gt=0), PLAIN]
NotNegative = Annotated[float, Field(ge=0), PLAIN]
Seed = Annotated[int, Field(ge=0, lt=2**64, description="an integer from 0 to 2**64 - 1"), PLAIN]
Texts = Annotated[tuple[str, ...], Field(description="a list of texts"), PLAIN]
Timesteps = Annotated[tuple[NotNegativeInteger, ...], Field(min_length=1, description="a list of at least one integer of at least 0"), PLAIN]
Template = Annotated[str, Field(pattern=r"\{class\}", description="text with the place of the class, '{class}', in it")]
Weights = Annotated[
    Mapping[Annotated[int, Field(ge=0), BeforeValidator(_stride)], NotNegative],
    Field(min_length=1, description="a mapping of strides, or of a transformer's blocks from 0, to weights (numbers of at least 0)"),
]

Lora = Annotated[tuple[str, float], Field(description="a list of a path and a number, [path, scale]"), PLAIN]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def settings(kind: type[Class]) -> type[Class]:
    """Make a class a frozen dataclass that checks what it is given, also on ``dataclasses.replace``.

    A bool is no integer, an integer is a number, NaN and infinity are none. Where a field's type is of this module, lists are taken for tuples and NumPy's
    scalars for Python's. What is refused is named in one ``ValueError``: every value, what was expected instead, and for an unknown name the nearest one.

    Args:
        kind: Class with annotated fields; its own ``__post_init__`` may raise a ``ValueError`` on values that do not go together.
    """
    made: Any = dataclass(kind, frozen=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
    checked = made.__init__

    def __init__(self: Any, /, *args: Any, **given: Any) -> None:
        try:
            checked(self, *args, **given)
        except ValidationError as error:
            said = _sentence(error, made, args, given)
        else:
            return
        raise ValueError(said)

    made.__init__ = __init__
    made.__annotations__ = get_type_hints(kind)  # the bare types, for whoever reads them: pages of documentation, editors
    return made


def _sentence(error: ValidationError, cls: Any, args: tuple[Any, ...], given: Mapping[str, Any]) -> str:
    """What is wrong with settings, a clause for each that is."""
    names = [one.name for one in fields(cls)]
    values, expected = dict(zip(names, args, strict=False)) | dict(given), TypeAdapter(cls).json_schema()["properties"]
    return "; and ".join(dict.fromkeys(_clause(one, cls.__name__, names, values, expected) for one in error.errors()))


def _clause(one: Mapping[str, Any], owner: str, names: list[str], values: Mapping[str, Any], expected: Mapping[str, Mapping[str, Any]]) -> str:
    if one["type"] == "value_error":  # of a class's own ``__post_init__``
        return str(one["ctx"]["error"])
    if one["type"] == "unexpected_positional_argument":
        return f"too many settings of {owner}: expected at most {len(names)}"
    name = names[one["loc"][0]] if isinstance(one["loc"][0], int) else one["loc"][0]
    if name not in names:
        return f"unknown setting {name!r} of {owner}: {nearest(name, names)}"
    if name not in values:
        return f"{name} is missing: expected {_told(expected[name])}"
    shown = " ".join(repr(values[name]).split())
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    if one["type"] == "multiple_argument_values":
        return f"{name} {shown}: expected one value, got two"
    close = nearest(str(values[name]), [text for text in expected[name].get("enum", ()) if text])
    return f"{name} {shown}: expected {_told(expected[name])}" + (f"; {close}" if close.startswith("did you") else "")


def _told(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words.

    >>> _told({"type": "number", "exclusiveMinimum": 0, "maximum": 1}), _told({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]})
    ('a number above 0 and up to 1', 'an integer of at least 1, or None')
    """
    if "description" in schema:
        return str(schema["description"])
    if "$ref" in schema:
        return f"settings of {schema['$ref'].split('/')[-1]}"
    if "anyOf" in schema:
        return ", or ".join(map(_told, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(name or "''" for name in schema["enum"])
    bounds = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "up to", "exclusiveMaximum": "below"}
    found = [f"{told} {schema[key]}" for key, told in bounds.items() if key in schema]
    if "minimum" in schema and "maximum" in schema:
        found = [f"from {schema['minimum']} to {schema['maximum']}"]
    elif "maximum" in schema and len(found) == 1:
        found = [f"of at most {schema['maximum']}"]
    return " ".join([NAMES[schema["type"]], " and ".join(found)]).strip()
