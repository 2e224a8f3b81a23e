"""From a source and a few settings to a task: find the splits, guess what was not named, read every row once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pairtune import yaml12
from pairtune.data import columns, labels, sources
from pairtune.data.holdout import hold_out
from pairtune.data.media import MediaError
from pairtune.data.media_table import beside, with_media
from pairtune.data.split import Split
from pairtune.data.task import KINDS, Task
from pairtune.data.verbalise import SEPARATOR
from pairtune.errors import ConfigError, InputError
from pairtune.pair.modality import MODALITIES, TEXT, Modality
from pairtune.registry import suggest

SETTINGS = ("source", "kind", "text", "label", "splits", "labels", "separator", "name")


def load_task(source: Any, given: Mapping[str, Any]) -> Task:
    """The work of `Task.load`; `given` holds the arguments that were given."""
    root, settings = Path(), dict(given)
    if isinstance(source, (str, Path)) and str(source).lower().endswith((".yaml", ".yml")):
        path = Path(source).expanduser()
        root, settings = path.parent, {"name": path.stem, **_settings(yaml12.load(path), str(path)), **given}
        source = settings.get("source")
    elif isinstance(source, Mapping):
        settings = {**_settings(source, "the data"), **given}
        source = settings.get("source")
    _check(settings)
    found = sources.find(source, settings.get("splits") or {}, root)
    found.splits = {name: beside(split) for name, split in found.splits.items()}
    guessed: dict[str, str] = {}
    text, label, kind, modality = _columns(found, settings, guessed)
    notes = list(found.notes)
    splits = _without_hidden(found, label, notes)
    for column in text:
        for split in splits.values():
            split.require(column)
    if modality == "text":
        _check_texts(splits, text)
    else:
        splits = {name: with_media(split, text[0], modality) for name, split in splits.items()}
        _check_media(splits, text[0])
    splits = _with_held_out(splits, text, found.single, notes, MODALITIES[modality])
    names = _label_list(settings.get("labels"), found.label_names.get(label or ""), splits, label, kind)
    return Task(
        name=settings.get("name") or found.name,
        kind=kind,  # type: ignore[arg-type]
        text=text,
        label=label,
        labels=names,
        splits=splits,
        separator=settings.get("separator", SEPARATOR),
        notes=tuple(notes),
        guessed=guessed,
        labels_given="labels" in settings or bool(label and label in found.label_names),
        modality=modality,
    )


def _settings(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected a mapping with {', '.join(SETTINGS)}, found {type(values).__name__}")
    unknown = [str(key) for key in values if key not in SETTINGS]
    if unknown:
        raise ConfigError([f"{key}: there is no such setting{suggest(key, SETTINGS)}" for key in unknown], where)
    return {key: value for key, value in values.items() if value is not None}


def _check(settings: Mapping[str, Any]) -> None:
    problems = []
    kind = settings.get("kind")
    if kind is not None and kind not in KINDS:
        problems.append(f"kind: expected {', '.join(KINDS)}, found {kind!r}{suggest(str(kind), KINDS)}")
    for key in ("label", "separator", "name"):
        if not isinstance(settings.get(key, ""), str):
            problems.append(f"{key}: expected text, found {settings[key]!r}")
    if not isinstance(settings.get("splits", {}), Mapping):
        problems.append(f"splits: expected a mapping from split to file, found {settings['splits']!r}")
    if isinstance(settings.get("labels", []), (str, Mapping)) or not hasattr(settings.get("labels", []), "__iter__"):
        problems.append(f"labels: expected a list of class names, found {settings['labels']!r}")
    if problems:
        raise ConfigError(problems, "the data")


def _columns(found: sources.Found, settings: Mapping[str, Any], guessed: dict[str, str]):
    """Text columns, label column, kind and what is read; the reason of each that was guessed goes to `guessed`."""
    first = found.splits.get("train") or next(iter(found.splits.values()))
    profile = columns.profile(first)
    label, kind = settings.get("label"), settings.get("kind")
    if label is not None:
        first.require(label)
    if "text" in settings:
        text = _given_text(settings["text"], first)
    else:
        text, guessed["text"] = columns.guess_text(profile, label)
    if label is None:
        label, guessed["label"] = columns.guess_label(profile, text, kind)
    if kind is None:
        kind, guessed["kind"] = columns.guess_kind(profile, label, ", ".join(first.files))
    if label in text:
        raise InputError(f"the column {label!r} is named both as text and as label")
    return text, label, kind, _modality(profile, text, label, kind)


def _given_text(value: Any, split: Split) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else list(value)
    if len(names) == 1 and names[0] not in split.columns and "," in names[0]:
        names = [name.strip() for name in names[0].split(",")]
    if not 1 <= len(names) <= 2:
        raise InputError(f"text: expected one or two columns, found {len(names)}: {', '.join(map(str, names))}")
    for name in names:
        split.require(name)
    return tuple(names)


def _check_texts(splits: Mapping[str, Split], text: Sequence[str]) -> None:
    """Every text is text, or a conversation where the first is one."""
    for column in text:
        first = next(iter(next(iter(splits.values())).values(column)))
        chat = len(text) == 1 and columns.is_chat(first)
        for split in splits.values():
            for i, value in enumerate(split.values(column)):
                if not (columns.is_chat(value) if chat else isinstance(value, str)):
                    found = "nothing (null)" if value is None else f"{type(value).__name__} {value!r:.60}"
                    expected = "a list of messages with role and content" if chat else "text"
                    raise split.error(i, f"column {column!r}: expected {expected}, found {found}")


def _modality(profile: Sequence[columns.Column], text: Sequence[str], label: str | None, kind: str) -> str:
    """What the input column holds. Raises `InputError` for media beside another column, or without labels."""
    found = [column.type for column in profile if column.name in text and column.type in columns.MEDIA]
    if not found:
        return "text"
    if len(text) > 1:
        raise InputError(f"text: a task reads one column of {found[0]} files, found {' and '.join(text)}")
    if label is None or kind in ("lm", "seq2seq"):
        raise InputError(
            f"{text[0]} holds {found[0]} files, which are learnt by labels; name the label's column: label=<column>"
        )
    return found[0]


def _check_media(splits: Mapping[str, Split], column: str) -> None:
    """Every image or recording is there and is not empty; none is decoded."""
    for split in splits.values():
        for i, value in enumerate(split.values(column)):
            try:
                value.check()
            except MediaError as error:
                raise split.error(i, value.failure(error)) from None


def _without_hidden(found: sources.Found, label: str | None, notes: list[str]) -> dict[str, Split]:
    """Hub sets mark a label that is withheld by −1, read as null here: such rows and splits are left out."""
    if label not in found.label_names:
        return dict(found.splits)
    kept = {}
    for name, split in found.splits.items():
        rows = [i for i, value in enumerate(split.values(label, None)) if value is not None]
        if name.startswith("ood/") or len(rows) == len(split):
            kept[name] = split
        elif rows:
            notes.append(f"{name}: {len(split) - len(rows):,} rows without a label are left out")
            kept[name] = split.select(rows)
        else:
            notes.append(f"{name} is left out: its labels are withheld")
    return kept


def _with_held_out(
    splits: dict[str, Split], text: Sequence[str], single: bool, notes: list[str], what: Modality
) -> dict[str, Split]:
    train, validation, test = splits.get("train"), splits.get("validation"), splits.get("test")
    by = f"by the hash of the {what.one}"
    if train is not None and validation is None:
        if single and test is None:
            train, validation, test = hold_out(train, text, 2, what.many)
            sizes = f"{len(train):,} / {len(validation):,} / {len(test):,}"
            source = "file" if what is TEXT else "set"
            notes.append(f"one {source}: split 80 / 10 / 10 into train, validation and test, {by} ({sizes} rows)")
        else:
            train, validation = hold_out(train, text, 1, what.many)
            notes.append(f"no validation split: {len(validation):,} rows (10 %) of train are held out for it, {by}")
    main = {"train": train, "validation": validation, "test": test}
    return {name: split for name, split in {**main, **splits, **main}.items() if split is not None}


def _label_list(given, of_source, splits, label: str | None, kind: str) -> list[str]:
    if label is None:
        if kind in labels.CLASS_KINDS or kind in ("regression", "seq2seq"):
            raise InputError(f"a {kind} task needs a label column; name it: label=<column>")
        return []
    names = labels.checked_list(given) if given is not None else of_source
    if names is not None and kind not in labels.CLASS_KINDS:
        if given is not None:
            raise InputError(f"labels: a {kind} task has no label list; leave it out")
        names = None
    return labels.collect(splits, label, kind, names)
