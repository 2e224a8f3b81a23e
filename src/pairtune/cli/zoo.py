"""list the small pretrained bases that work without a network"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pairtune.cli import frame
from pairtune.errors import InputError
from pairtune.zoo import names, path


def zoo(json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False) -> None:
    """List the small pretrained bases that work without a network; use one as `--base zoo:NAME`."""
    records = [_record(*entry) for entry in names()]
    rows = [
        (f"zoo:{one['name']}", f"{one['parameters'] / 1e6:.1f} M", one["license"], one["about"] + one["state"])
        for one in records
    ]
    text = frame.columns(rows, head=("base", "parameters", "licence", "what it is"))
    frame.emit([{key: one[key] for key in one if key != "state"} for one in records], json, text=text)


def _record(name: str, about: str, parameters: int, license: str) -> dict[str, Any]:
    try:
        here = (path(name) / "config.json").is_file()
    except InputError:  # its extra is not installed
        here = False
    state = "" if here else " (not installed)"
    return {"name": name, "about": about, "parameters": parameters, "license": license, "here": here, "state": state}
