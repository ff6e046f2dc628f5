"""The base of every group of options: typed, frozen, with one-line refusals that name the option and its rule.

A group is a class, an option is a field of it, and the field states its rule in words. Imports no torch.
"""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from resnet_repro.errors import UserError

Auto = Literal["auto"]
Family = Literal["cifar", "imagenet"]
"""The papers' two families of networks; the data decides which: three stages after a 3x3 stem, or four after a 7x7."""
Number = int | float
"""A whole number stays an int, so that names and records show what a person wrote."""

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[Number, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]

Group = TypeVar("Group", bound="Options")
STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


def option(rule: str | None = None, **limits: Any) -> Any:
    """Declare a field. `rule` completes the sentence "KEY=VALUE is not ..."; a list of choices needs no rule."""
    return Field(description=rule, **limits)


class Options(BaseModel):
    """A group of options. Values are checked but never converted: `seed=1.0` is no whole number."""

    model_config = STRICT

    @classmethod
    def parse(cls: type[Group], values: Mapping[str, Any], *, group: str = "") -> Group:
        """Return the group with these values.

        Args:
            group: prefix of the options on the command line, such as `schedule.`.

        Raises:
            UserError: if an option is unknown, missing or breaks its rule; names the first.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                raise UserError(f"{group}{name} is not an option here; leave it out") from None
            if name not in values:
                raise UserError(f"{group}{name} is missing; give it a value") from None
            raise UserError(f"{group}{name}={values[name]} is not {rule(cls, name)}") from None

    def record(self) -> dict[str, Any]:
        """Return the options that were given, as plain containers, without defaults."""
        return self.model_dump(mode="json", exclude_unset=True)

    def but(self: Group, **values: Any) -> Group:
        """Return a copy with other values, which are not checked."""
        return self.model_copy(update=values)


@cache
def _adapter(kind: type[Options], name: str) -> Any:
    field = kind.model_fields[name]
    annotated: Any = Annotated[field.annotation, field]
    is_group = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    return TypeAdapter(annotated, config=None if is_group else STRICT)


def allows(kind: type[Options], name: str, value: object) -> bool:
    """Return whether an option of a group may have this value."""
    try:
        _adapter(kind, name).validate_python(value)
    except ValidationError:
        return False
    return True


def rule(kind: type[Options], name: str) -> str:
    """Return the rule of an option in words: `a whole number of steps, at least 1`, `one of add, half_both`."""
    field: FieldInfo = kind.model_fields[name]
    return field.description or f"one of {', '.join(_choices(field.annotation))}"


def _choices(annotation: Any) -> list[str]:
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return [str(each) for each in get_args(annotation)]
    return [choice for part in get_args(annotation) for choice in _choices(part)]
