"""What every method is: a class with one typed table of settings.

The settings table is the single source of a method's flags, its YAML schema, its validation errors and its reference
documentation, so a default or a range is written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, get_args

import pydantic

from pairtune.errors import ConfigError
from pairtune.registry import suggest

VIEWS = frozenset({"tokens", "labels", "masked"})  # what a model's head says; "masked": an encoder's, hidden tokens


class Settings(pydantic.BaseModel):
    """A method's hyper-parameters: frozen, and an unknown name is an error rather than ignored."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, validate_default=True)


def problems_of(
    error: pydantic.ValidationError, prefix: str = "", model: type[pydantic.BaseModel] | None = None
) -> list[str]:
    """One readable line a problem of a pydantic validation error: `where: what was expected (found ...)`.

    With the `model` that refused, an unknown name is answered with the nearest known one.
    """
    lines = []
    for item in error.errors():
        where = ".".join([*([prefix] if prefix else []), *(str(part) for part in item["loc"])])
        if item["type"] == "extra_forbidden":
            hint = suggest(str(item["loc"][-1]), _fields(model, item["loc"][:-1]))
            lines.append(f"{where}: there is no such setting{hint}")
            continue
        what = item["msg"].removeprefix("Value error, ")  # which pydantic puts before a table's own sentences
        if not where:  # settings that do not go together: the table's own sentence names them
            lines.append(what)
            continue
        found = "" if item["type"] == "missing" else f" (found {_short(item['input'])})"
        lines.append(f"{where}: {what[0].lower()}{what[1:]}{found}")
    return lines


class Method:
    """A published method, configured. Subclasses nest a `Settings` table; `self.settings` holds the validated values.

    Raises `ConfigError` naming every wrong setting at once.
    """

    Settings: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: Settings | None = None, **values: Any):
        if settings is None:
            try:
                settings = self.Settings(**values)
            except pydantic.ValidationError as error:
                raise ConfigError(problems_of(error, model=self.Settings), where=type(self).__name__) from None
        self.settings = settings


def _fields(model: type[pydantic.BaseModel] | None, path: Sequence[Any]) -> list[str]:
    """The field names of the model that `path` leads to, through nested models; empty where it leads elsewhere."""
    for part in path:
        inner = model.model_fields.get(part) if model else None
        kinds = [inner.annotation, *get_args(inner.annotation)] if inner else []
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)), None)
    return list(model.model_fields) if model else []


def _short(value: Any, limit: int = 80) -> str:
    """The value as text, cut: a whole section given in place of a number would bury the message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
