"""list the methods of a room, or the settings of one method"""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from pairtune import registry
from pairtune.cli import frame
from pairtune.reading import SettingInfo
from pairtune.registry import MethodInfo


def methods(
    room: Annotated[str | None, typer.Argument(help="Tuners, objectives, constraints, ...; all if absent.")] = None,
    name: Annotated[str | None, typer.Argument(help="A method of that room: show its settings.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """List the methods of a room, or the settings of one method.

    The files are read, not imported, so this answers at once and needs no working torch.
    """
    if room and name:
        info = registry.find(room, name)
        frame.emit(record(info), json, text=page(info))
        return
    listed = {one: registry.methods(one) for one in ([room] if room else registry.rooms())}
    records = {one: [record(info) for info in known.values()] for one, known in listed.items()}
    frame.emit(records, json, text="\n\n".join(_room(one, known) for one, known in listed.items()))


def record(info: MethodInfo) -> dict[str, Any]:
    """A method as JSON has it."""
    found = {
        "name": info.name,
        "room": info.room,
        "summary": info.summary,
        "paper": info.paper,
        "traits": info.traits,
        "preset": info.preset,
        "passes_further_settings": info.passthrough,
        "settings": [{**vars(setting)} for setting in info.settings],
    }
    return found | ({"contract": contract(info)} if info.room == "tuners" else {})


def contract(info: MethodInfo) -> dict[str, Any]:
    """What a tuner promises with its default settings, and the model on which the share is counted."""
    given = info.provides or frozenset()
    causal = "causal" in (info.traits.get("families") or {"causal"})
    share = info.traits.get("trainable_share")
    return {
        "mergeable": "merge" in given,
        "identity_at_start": "identity_at_start" in given,
        "scalable": "scale" in given,
        "trainable_share": share,
        "counted_on": None if share is None else "zoo:tiny-lm" if causal else "zoo:minilm",
    }


def page(info: MethodInfo) -> str:
    """A method as text: what it is, what it declares, its settings with type, default, range and one line each."""
    parts = [f"{info.room} / {info.name}", "", info.doc.rstrip(), ""]
    declared = [f"  {name} = {words(value)}" for name, value in info.traits.items() if not name.startswith("_")]
    parts += ["declares:", *declared, ""] if declared else []
    rows = [(one.name, default_of(one, info), f"{one.help} ({kind(one)})") for one in info.settings]
    if rows:
        parts.append(frame.columns(rows, head=("setting", "default", "meaning (type, range)")))
    elif not info.passthrough:
        parts.append("It has no settings.")
    if info.passthrough:
        parts += ["", "Further settings are passed on and checked by the method itself."]
    return "\n".join(parts)


def default_of(setting: SettingInfo, info: MethodInfo) -> str:
    """The default as people write it; `required` where there is none."""
    if setting.name in info.preset:
        return info.preset[setting.name]
    return "required" if setting.required else words(setting.default)


def kind(setting: SettingInfo) -> str:
    """The type as people read it, with its range: `int, >= 1`, or `mean | first | last`."""
    words = re.sub(
        r"Literal\[([^\]]*)\]", lambda found: " | ".join(re.findall(r"[^\s,'\"]+", found[1])), setting.type
    ).replace("None", "null")
    return f"{words}, {setting.range}" if setting.range else words


def _room(room: str, known: dict[str, MethodInfo]) -> str:
    rows = [(info.name, info.summary) for info in known.values()]
    return f"{room}:\n" + (frame.columns(rows, indent="  ") if rows else "  none yet")


def words(value: Any) -> str:
    """A literal as a run file has it."""
    if isinstance(value, frozenset):
        return ", ".join(sorted(map(str, value))) or "none"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
