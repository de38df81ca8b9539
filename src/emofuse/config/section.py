"""What the sections of params.yaml have in common, and mistakes in them as one line that starts with the path of the key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emofuse.utils.console import printable
from emofuse.utils.errors import UserError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Modality = Literal["video", "audio"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

S = TypeVar("S", bound="Section")

LONGEST_NAME = 100  # characters; names become names of files and folders


class Section(BaseModel):
    """A mapping in params.yaml. Unknown keys and wrong types are errors; values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings with their paths, such as `network.audio.width`, 32."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield path + key, value


def check_known(where: str, what: str, value: object, known: Iterable[object]) -> None:
    """Raise `UserError` if a value is not among the known ones. `where` is the path of the key, `what` says what it is."""
    if value not in known:
        raise UserError(f"{where}: there is no {what} {value!r}; there are {', '.join(map(str, known))}")


def validate(model: type[S], value: Any, where: str = "") -> S:
    """`value` as a section. Raises `UserError`, the first mistake in one line, with `where` before the path of the key."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(_first_line(error, value, where)) from None


def _first_line(error: ValidationError, value: Any, where: str) -> str:
    """The first mistake in `value` as `key.path: problem`, with the number of the others."""
    mistakes: dict[
        tuple[Any, ...], list[tuple[tuple[Any, ...], ErrorDetails]]
    ] = {}  # path of a union, or of one mistake
    for number, found in enumerate(error.errors()):
        path, union = _path(found, value)
        mistakes.setdefault(union if union is not None else (*path, number), []).append((path, found))
    union, alternatives = next(iter(mistakes.items()))
    path, first = _nearest(union, alternatives)
    message = re.sub(r"^Value error, | after validation| or instance of \w+", "", first["msg"])
    keys = [where] * bool(where) + [printable(str(part)) for part in path]
    if first["type"] == "value_error" and re.match(r"[a-z_.]+: ", message):  # our own validators name the key first
        key, message = message.split(": ", 1)
        keys.append(key)
    if first["type"] == "extra_forbidden":
        message = "no such parameter"
    elif first["type"] not in ("value_error", "missing"):
        message += f" (found {repr(first['input'])[:200]})"
    others = len(mistakes) - 1
    return f"{'.'.join(keys) or 'params.yaml'}: {message}" + (f" (and {others} more)" if others else "")


def _path(found: ErrorDetails, value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
    """The path of a mistake in `value`, and that of the union in which it is, None if it is in none.

    Pydantic's own path also has the alternative of a union that was tried, such as `list[int]`, and "[key]".
    """
    path: list[Any] = []
    union = None
    for part in found["loc"]:
        try:
            value = value[part]
        except (LookupError, TypeError):
            if found["type"] != "missing" and part != "[key]":
                union = tuple(path) if union is None else union
            elif part != "[key]":
                path.append(part)
        else:
            path.append(part)
    return tuple(path), union


def _nearest(
    union: tuple[Any, ...], alternatives: list[tuple[tuple[Any, ...], ErrorDetails]]
) -> tuple[tuple[Any, ...], ErrorDetails]:
    """The mistake in the alternative that the user must have meant: the one of the right type, if there is one."""
    for path, found in alternatives:
        if path != union or not (found["type"].endswith("_type") or found["type"] == "literal_error"):
            return path, found
    path, first = alternatives[0]
    start = "Input should be "
    kinds = " or ".join(dict.fromkeys(found["msg"].removeprefix(start) for _, found in alternatives))
    return path, {**first, "msg": start + kinds}
