"""print the JSON schema of a run file, or of one method's settings"""

from __future__ import annotations

from typing import Annotated

import typer

from pairtune import registry
from pairtune.cli import frame
from pairtune.errors import InputError


def schema(
    method: Annotated[str | None, typer.Argument(help="ROOM/NAME such as tuners/levi; the run file if absent.")] = None,
) -> None:
    """Print the JSON schema of a run file (what `pairtune tune FILE` reads), or of one method's settings.

    An editor that is given the run file's schema completes and checks YAML files.
    """
    if method is None:
        from pairtune.training.config import RunConfig

        frame.emit(RunConfig.model_json_schema(), as_json=True)
        return
    room, slash, name = method.partition("/")
    if not slash or not name:
        hint = registry.suggest(room, registry.rooms())
        raise InputError(f"{method!r} is not of the form ROOM/NAME, for instance tuners/levi{hint}")
    info = registry.find(room, name)
    table = registry.load(room, name).Settings.model_json_schema()
    table |= {"title": f"{room}/{name}", "description": info.summary}
    frame.emit(table, as_json=True)
