"""Dotted flags: `--tuner.hidden 128 --constraint.l2-sp.weight 0.1 --training.lr 1e-3` become one nested mapping.

It is the mapping that a run file gives, so that one model validates both. Names are checked here, against the text of
the methods' files, before anything heavy is imported; values are checked by the method's own settings later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pairtune import reading, registry, yaml12
from pairtune.errors import ConfigError, InputError

SECTIONS = {
    "tuner": "tuners",
    "objective": "objectives",
    "constraint": "constraints",
    "direction": "generation",
    "method": "merging",
    "detector": "ood",
}


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the dotted flags from the rest of a command line, each as one word `--a.b=value`.

    A dotted flag takes the next word as its value, unless it has `=` or the next word starts with `--`.
    """
    rest: list[str] = []
    found: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            rest += [word, *queue]
            break
        if not (word.startswith("--") and "." in word.partition("=")[0]):
            rest.append(word)
        elif "=" in word or not queue or queue[0].startswith("--"):
            found.append(word)
        else:
            found.append(f"{word}={queue.pop(0)}")
    return rest, found


def read(
    words: Iterable[str],
    chosen: Mapping[str, str | Sequence[str] | None],
    sections: Mapping[str, Iterable[str] | None] | None = None,
) -> dict[str, Any]:
    """The nested mapping of dotted flags (`ctx.args` of a verb), every name checked.

    `chosen` gives the method named for a section (`{"tuner": "levi"}`), a list where a section holds several
    (`{"constraint": ["l2-sp"]}`, and then the flag's second word is the method's name), or None where it is not known
    yet and names cannot be checked. `sections` gives the setting names of sections that are no methods, None unchecked.

    Raises `ConfigError` with all problems at once: unknown sections, methods, settings; values missing or given twice.
    """
    sections = sections or {}
    tree, problems = _nest(words)
    for section, names in tree.items():
        if section in chosen:
            continue
        if section not in sections:
            hint = registry.suggest(section, [*chosen, *sections]) or f" (there are {', '.join([*chosen, *sections])})"
            problems.append(f"--{section}: there is no such section{hint}")
        elif (known := sections[section]) is not None:
            known = list(known)
            problems += [
                f"--{section}.{name}: there is no such setting{registry.suggest(name, known)}"
                for name in names
                if name not in known
            ]
    for section, name in chosen.items():
        given = tree.get(section, {})
        if isinstance(name, str):
            problems += _problems(section, name, given, f"--{section}.")
        elif name is not None:
            for one in dict.fromkeys([*name, *given]):
                inner = given.get(one, {})
                if isinstance(inner, Mapping):
                    problems += _problems(section, one, inner, f"--{section}.{one}.")
                else:
                    problems.append(f"--{section}.{one}: write --{section}.METHOD.SETTING value")
    if problems:
        raise ConfigError(problems, where="the command line")
    return tree


def fields(module: str, table: str) -> list[str]:
    """The setting names of a section's class, `fields("pairtune.training.config", "Training")`, by reading its file."""
    path = reading.file_of(module)
    if path is None:
        raise LookupError(f"{module} is not a module of pairtune")
    source = reading.read(path)
    return list(reading.settings(source, source.classes[table]))


def _problems(section: str, name: str, given: Mapping[str, Any], where: str) -> list[str]:
    try:
        info = registry.find(SECTIONS[section], name)
    except InputError as error:
        return [f"--{section}: {error}"]
    return registry.unknown_settings(info, given, where)


def _nest(words: Iterable[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    tree: dict[str, Any] = {}
    problems = []
    for word in words:
        flag, given, text = word.partition("=")
        path = flag.removeprefix("--").split(".")
        if not given or not all(path):
            fault = "needs a value" if all(path) else "has an empty name between its dots"
            problems.append(f"{flag}: {fault}")
            continue
        try:
            value = yaml12.scalar(text, where=flag)
        except InputError as error:
            problems.append(str(error))
            continue
        node = tree
        for name in path[:-1]:
            inner = node.setdefault(name, {})
            node = inner if isinstance(inner, dict) else {}
            if node is not inner:
                problems.append(f"{flag}: {name} already has a value")
        if path[-1] in node:
            problems.append(f"{flag}: is given twice")
        node[path[-1]] = value
    return tree, problems
