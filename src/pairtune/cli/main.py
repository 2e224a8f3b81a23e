"""The command `pairtune`: finds the verbs by listing this folder, and imports only the one that is asked for."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pairtune import __version__, reading, registry
from pairtune.cli import dotted, frame

INTRO = """pairtune: fine-tuned models as pairs of a base and a delta

usage: pairtune VERB ...        pairtune VERB --help        pairtune --version
"""


HERE = Path(__file__).parent


@cache
def verbs(folder: Path = HERE) -> dict[str, str]:
    """Every verb with its one-line summary: a file here that defines a function of its own name, or a folder of such.

    Args:
        folder: where to look; that of a verb that has verbs of its own.
    """
    found = {}
    for path in sorted(folder.glob("[!_]*")):
        group = path.is_dir() and (path / "__init__.py").exists()
        if not group and path.suffix != ".py":
            continue
        module = reading.read(path / "__init__.py" if group else path)
        if group or path.stem in module.functions:
            found[path.stem.replace("_", "-")] = module.summary.rstrip(".")
    return found


def run(words: Sequence[str] | None = None) -> None:
    """The entry point: run the command line and leave with its exit code."""
    words = list(sys.argv[1:] if words is None else words)
    sys.exit(frame.guarded(lambda: dispatch(words)))


def dispatch(words: Sequence[str]) -> int | None:
    """Run one command line; usage faults answer here, what a verb raises passes through."""
    if not words or words[0] in {"-h", "--help", "help"}:
        print(overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"pairtune {__version__}")
        return 0
    return chosen(HERE, [], words)


def chosen(folder: Path, before: Sequence[str], words: Sequence[str]) -> int | None:
    """Run the verb of this folder that the first word names.

    Args:
        before: the verbs that led here.
    """
    said, (word, *rest) = " ".join(["pairtune", *before]), words
    known = verbs(folder)
    if word not in known:
        kind = "flag" if word.startswith("-") else "question" if before else "verb"
        hint = registry.suggest(word, known) or f" (there are {', '.join(known)})"
        return frame.fail(f"there is no {kind} {word!r}{hint}\nsee `{said} --help`", 2)
    path, verb = folder / word.replace("-", "_"), [*before, word]
    if path.is_dir():
        if not rest or rest[0] in {"-h", "--help"}:
            print(questions(path, verb))
            return 0 if rest else 2
        return chosen(path, verb, rest)
    with frame.results_only() if "--json" in rest else contextlib.nullcontext():
        return call(verb, rest)


def call(verb: Sequence[str], words: Sequence[str]) -> int | None:
    """Import a verb's file, read its flags with typer, run it."""
    import typer
    from typer.main import get_command

    stems, said = [word.replace("-", "_") for word in verb], " ".join(["pairtune", *verb])
    frame.speak()
    function = getattr(importlib.import_module(".".join(["pairtune.cli", *stems])), stems[-1])
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(function)
    command = get_command(app)
    takes_dotted = "ctx" in inspect.signature(function).parameters
    plain, flags = dotted.split(words) if takes_dotted else (list(words), [])
    # The base of typer's usage faults; where its classes live differs between its versions.
    kinds: list[type[Exception]] = [kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"]
    try:
        with command.make_context(said, plain) as ctx:
            ctx.args += flags
            return command.invoke(ctx)
    except typer.Exit as leave:
        return leave.exit_code
    except tuple(kinds) as fault:
        message = fault.format_message()  # type: ignore[attr-defined]
        if (flag := getattr(fault, "option_name", None)) and "No such option" in message:
            known = [option for parameter in command.params for option in parameter.opts]
            message = f"there is no flag {flag}{registry.suggest(flag, known)}"
        return frame.fail(f"{message}\nsee `{said} --help`", 2)


def questions(folder: Path, verb: Sequence[str]) -> str:
    """What a verb that has verbs of its own prints for `--help`."""
    said = " ".join(["pairtune", *verb])
    rows = frame.columns(list(verbs(folder).items()), indent="  ")
    return f"{said}: {verbs(folder.parent)[verb[-1]]}\n\nusage: {said} QUESTION ...   {said} QUESTION --help\n\n{rows}"


def overview() -> str:
    """What `pairtune --help` prints: the verbs and the methods that there are, read from their files."""
    known = [(room, ", ".join(registry.names(room)) or "none yet") for room in registry.rooms()]
    return "\n".join(
        [
            INTRO,
            frame.columns(list(verbs().items()), indent="  "),
            "",
            "methods (`pairtune methods ROOM NAME` shows one):",
            frame.columns(known, indent="  "),
        ]
    )
