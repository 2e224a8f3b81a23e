"""What every method is: a class with one typed table of settings.

The settings table is the single source of a method's flags, its YAML schema, its validation errors and its reference
documentation, so a default or a range is written once.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pydantic

from pairtune.errors import ConfigError


class Settings(pydantic.BaseModel):
    """A method's hyper-parameters: frozen, and an unknown name is an error rather than ignored."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, validate_default=True)


def problems_of(error: pydantic.ValidationError, prefix: str = "") -> list[str]:
    """One readable line a problem of a pydantic validation error: `where: what was expected (found ...)`."""
    lines = []
    for item in error.errors():
        where = ".".join([*([prefix] if prefix else []), *(str(part) for part in item["loc"])])
        found = "" if item["type"] == "missing" else f" (found {item['input']!r})"
        lines.append(f"{where}: {item['msg'][0].lower()}{item['msg'][1:]}{found}")
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
                raise ConfigError(problems_of(error), where=type(self).__name__) from None
        self.settings = settings
