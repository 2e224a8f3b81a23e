"""Names to files: which methods there are, found by reading their files; only the one that is asked for is imported.

A method is one file of a room, `src/pairtune/<room>/<name>.py`, with a class whose base is the room's protocol. The
name that people type is the file's, with `-` for `_`. A name with a colon (`peft:ia3`) is the method before the colon,
given the word behind it as its setting `type`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from pairtune import reading
from pairtune.errors import ConfigError, InputError
from pairtune.reading import SettingInfo

PROTOCOLS = {
    "tuners": "Tuner",
    "objectives": "Objective",
    "constraints": "Constraint",
    "generation": "Direction",
    "merging": "Merge",
    "ood": "Detector",
}


@dataclass(frozen=True)
class MethodInfo:
    """What a method's file says about it. `preset` holds settings that the name itself gives (`peft:ia3`: type)."""

    name: str
    room: str
    path: Path
    cls: str
    summary: str
    doc: str
    paper: str
    settings: list[SettingInfo]
    traits: dict[str, Any] = field(default_factory=dict)
    passthrough: bool = False
    preset: dict[str, str] = field(default_factory=dict)

    @property
    def provides(self) -> frozenset[str] | None:
        """The literal `provides` of the class, None where it is computed or absent."""
        return self.traits.get("provides")

    @property
    def needs(self) -> frozenset[str] | None:
        """The literal `needs` of the class, None where it is computed or absent."""
        return self.traits.get("needs")

    @property
    def module(self) -> str:
        """The dotted name to import."""
        return f"pairtune.{self.room}.{self.path.stem}"


def suggest(name: str, options: Iterable[str], lead: str = "; did you mean ") -> str:
    """`; did you mean hidden?` with up to three names near `name`, or an empty string where none is near."""
    plain = {_plain(option): option for option in options}
    near = get_close_matches(_plain(name), plain, n=3, cutoff=0.6)
    near.sort(key=lambda match: match[:1] != _plain(name)[:1])  # people rarely miss the first letter
    return f"{lead}{' or '.join(plain[match] for match in near)}?" if near else ""


def rooms() -> list[str]:
    """The rooms that hold methods and exist in this installation, in the order in which a run meets them."""
    return [room for room in PROTOCOLS if (reading.PACKAGE / room).is_dir()]


def names(room: str) -> dict[str, Path]:
    """The typed names of a room's methods and their files, by a look at each text's class lines; parses nothing.

    Raises `InputError` for an unknown room.
    """
    if room not in rooms():
        raise InputError(f"there is no room {room!r}{suggest(room, rooms())} (rooms: {', '.join(rooms())})")
    line = re.compile(rf"^class \w+\([^)]*\b{PROTOCOLS[room]}\b", re.MULTILINE)
    files = sorted((reading.PACKAGE / room).glob("[!_]*.py"))
    return {path.stem.replace("_", "-"): path for path in files if line.search(path.read_text(encoding="utf-8"))}


@cache
def methods(room: str) -> dict[str, MethodInfo]:
    """Every method of a room by its typed name, in alphabetical order. Raises `InputError` for an unknown room."""
    described = ((name, describe(room, path)) for name, path in names(room).items())
    return {name: info for name, info in described if info is not None}


def describe(room: str, path: Path) -> MethodInfo | None:
    """Read one file; None where it has no class with the room's protocol as a base."""
    module = reading.read(path)
    for node in module.classes.values():
        if PROTOCOLS[room] in {_last(base) for base in node.bases}:
            table = reading.nested(node, "Settings")
            return MethodInfo(
                name=path.stem.replace("_", "-"),
                room=room,
                path=path,
                cls=node.name,
                summary=module.summary,
                doc=module.doc,
                paper=reading.paper(module.doc),
                settings=list(reading.settings(module, table).values()),
                traits=reading.traits(module, node),
                passthrough=reading.accepts_more(module, table),
            )
    return None


def find(room: str, name: str) -> MethodInfo:
    """The method of that name. Raises `InputError` that names the nearest methods."""
    known = names(room)
    stem, colon, kind = name.partition(":")
    base = describe(room, known[stem]) if stem in known else None
    if base and not colon:
        return base
    if base and any(setting.name == "type" for setting in base.settings):
        if stem == "peft" and kind not in peft_types():
            raise InputError(
                f"PEFT has no method {kind!r}"
                + (suggest(kind, peft_types()) or f" (this installation has {', '.join(peft_types())})")
            )
        return replace(base, name=name, passthrough=True, preset={"type": kind})
    elsewhere = [other for other in rooms() if other != room and name in names(other)]
    hint = (
        f"; {name!r} is one of the {elsewhere[0]}"
        if elsewhere
        else suggest(name, known) or (f" (there are {', '.join(known)})" if known else " (there are none yet)")
    )
    raise InputError(f"there is no {PROTOCOLS[room].lower()} {name!r}{hint}")


@cache
def peft_types() -> list[str]:
    """The method names of the installed PEFT (`lora`, `ia3`, ...), read from its file without importing it."""
    spec = importlib.util.find_spec("peft")
    if spec is None or spec.origin is None:
        return []
    module = reading.read(Path(spec.origin).parent / "utils" / "peft_types.py")
    return sorted(str(value).lower() for value in reading.traits(module, module.classes["PeftType"]).values())


def load(room: str, name: str) -> type:
    """Import a method's file, and only that, and return its class."""
    info = find(room, name)
    return getattr(importlib.import_module(info.module), info.cls)


def build(room: str, name: str, values: Mapping[str, Any] | None = None, where: str | None = None) -> Any:
    """A configured method. `where` names the section in error messages; by default `<room>.<name>`.

    Raises `InputError` for an unknown name and `ConfigError` with every wrong setting at once.
    """
    import pydantic

    from pairtune.method import problems_of

    info, cls = find(room, name), load(room, name)
    given = {**info.preset, **(values or {})}
    clash = sorted(key for key in info.preset if key in (values or {}) and values[key] != info.preset[key])  # type: ignore[index]
    if clash:
        raise ConfigError([f"{key}: is {info.preset[key]!r} by the name {name!r}, not {given[key]!r}" for key in clash])
    try:
        settings = cls.Settings(**given)
    except pydantic.ValidationError as error:
        raise ConfigError(problems_of(error, model=cls.Settings), where=where or f"{room}.{name}") from None
    return cls(settings)


def unknown_settings(info: MethodInfo, names: Iterable[str], where: str = "") -> list[str]:
    """One line for each name that the method has no setting for, with the nearest that it has."""
    known = [setting.name for setting in info.settings]
    if info.passthrough:
        return []
    return [
        f"{where}{name}: {info.name} has no such setting"
        + (suggest(name, known) or (f" (it has {', '.join(known)})" if known else " (it has no settings)"))
        for name in names
        if name not in known
    ]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _last(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
