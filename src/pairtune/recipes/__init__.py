"""Methods made of others, in one stage or several, as data: one run file a recipe, without base and data.

A recipe is a YAML file here whose name is the name that people type. It is laid under the flags of `pairtune tune` like
any run file, and what it does not say is taken from the run. Its opening comment says what it is: the first line in one
sentence, then the paper. The pair that leaves one stage enters the next: a tuner begins with the values that the stack
has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairtune import yaml12
from pairtune.errors import InputError
from pairtune.registry import suggest

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """One recipe: `values` is the run file's mapping, `stages` the tuner of each stage, or its own."""

    name: str
    path: Path
    summary: str
    doc: str
    values: dict[str, Any]

    @property
    def stages(self) -> list[str]:
        """The tuners by name, in order."""
        tuners = [stage.get("tuner", self.values.get("tuner")) for stage in self.values.get("stages") or [self.values]]
        return [str(tuner["name"] if isinstance(tuner, dict) else tuner) for tuner in tuners]


def names() -> list[str]:
    """The recipes in this installation, in alphabetical order."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def find(name: str) -> Recipe:
    """A recipe by its name. Raises `InputError` that names the nearest ones."""
    if name not in names():
        hint = suggest(name, names()) or f" (there are {', '.join(names())})"
        raise InputError(f"there is no recipe {name!r}{hint}")
    path = _FOLDER / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    opening = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        opening.append(line.removeprefix("#").removeprefix(" "))
    return Recipe(name, path, opening[0], "\n".join(opening), yaml12.loads(text, str(path)))
