"""Detectors by the names that people type, and which of them a pair can have.

`log-ratio:answer:token` is the method before the first colon, each word behind it a value of one of its settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pairtune import registry
from pairtune.errors import ConfigError, MissingView
from pairtune.pair.modality import TEXT

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.ood import Detector
    from pairtune.pair.pair import Pair

TEXT_FORMS = ("log-ratio:sum", "log-ratio:token", "log-ratio:base", "likelihood:sum", "likelihood:token",
              "likelihood:base:sum", "likelihood:base:token")  # fmt: skip
ANSWER_FORMS = ("log-ratio:answer-given-question:sum", "log-ratio:answer-given-question:token",
                "likelihood:answer-given-question:sum", "likelihood:answer-given-question:token")  # fmt: skip

LABEL_FORMS = ("label-ratio:own", "label-ratio:distribution")


def make_detectors(
    names: Sequence[str], settings: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Detector]:
    """Detectors by the names that people type.

    Args:
        settings: method → further settings, for all forms of it that are named.

    Raises `InputError` for an unknown method, `ConfigError` for a word that is no value of its settings.
    """
    made = {}
    for name in names:
        stem, *words = name.split(":")
        values = dict((settings or {}).get(stem, {}))
        made[name] = registry.build("ood", stem, values | _values(name, stem, words))
    return made


def _values(name: str, stem: str, words: list[str]) -> dict[str, Any]:
    fields = registry.load("ood", stem).Settings.model_fields  # type: ignore[attr-defined]
    options = {
        key: get_args(field.annotation) for key, field in fields.items() if get_origin(field.annotation) is Literal
    }
    values: dict[str, Any] = {}
    for word in words:
        key = next((key for key, known in options.items() if word in known and key not in values), None)
        if key is None:
            known = "; ".join(f"{key}: {', '.join(known)}" for key, known in options.items()) or "it has none"
            near = registry.suggest(word, [value for known in options.values() for value in known])
            raise ConfigError([f"{word!r} is no form of {stem}{near} ({known})"], where=name)
        values[key] = word
    return values


def classes_of(pair: Pair, task: Task | None = None) -> list[str]:
    """The classes that this pair tells apart, empty where it tells none."""
    if pair.base.family == "encoder":
        config: Any = pair.base.model.config
        if "labels" not in pair.views or config.problem_type in ("regression", "multi_label_classification"):
            return []
        return [config.id2label[i] for i in range(config.num_labels)] if config.num_labels > 1 else []
    known = task_record(pair, task)
    return list(known["labels"]) if known.get("kind") == "classification" else []


def task_record(pair: Pair, task: Task | None = None) -> dict[str, Any]:
    """What is known of the pair's task: name, kind, text, label, labels, separator. Empty for a pair without one."""
    if task is None:
        return dict((pair.card.task if pair.card else None) or {})
    keys = ("name", "kind", "label", "labels", "separator")
    return {**{key: getattr(task, key) for key in keys}, "text": list(task.text)}


def offered(pair: Pair, task: Task | None = None) -> frozenset[str]:
    """What this pair has of what detectors need."""
    found = set(pair.views & {"tokens"})
    if classes_of(pair, task):
        found.add("classes")
        if pair.base.family == "encoder":
            found.add("linear head")
    return frozenset(found)


def available(pair: Pair, task: Task | None = None) -> list[str]:
    """Every detector that works on this pair, in each form that scores a text (an encoder-decoder: its answer)."""
    has = offered(pair, task)
    found = []
    for name, info in registry.methods("ood").items():
        if name == "length" and pair.base.modality is not TEXT:
            continue
        if any(setting.required for setting in info.settings) or not (info.needs or frozenset()) <= has:
            continue
        forms = (ANSWER_FORMS if pair.base.family == "seq2seq" else TEXT_FORMS) + LABEL_FORMS
        found += [form for form in forms if form.startswith(name + ":")] or [name]
    return found


def default_names(pair: Pair, task: Task | None = None) -> tuple[str, ...]:
    """What is scored where nobody names detectors: none of them needs to be fitted."""
    if pair.base.family == "seq2seq":
        return ("log-ratio:answer-given-question:sum", "log-ratio:answer-given-question:token", "length")
    if "tokens" in pair.views:
        return ("log-ratio:sum", "log-ratio:token", "length")
    found = ("msp", "energy", "max-logit", "length") if classes_of(pair, task) else ("length",)
    return found if pair.base.modality is TEXT else found[:-1]


_MEANING = {
    "tokens": "the tokens view (a language-model head)",
    "classes": "the labels view (a classification head, or a language model tuned on labels)",
    "linear head": "a classification head that ends in one linear layer",
}


def refuse_misfits(pair: Pair, detectors: Mapping[str, Detector], task: Task | None = None) -> None:
    """Raise `MissingView` for the first detector that this pair cannot have, naming those that it can."""
    has = offered(pair, task)
    for name, detector in detectors.items():
        lacking = sorted(detector.needs - has)
        why = (
            f"needs {_MEANING[lacking[0]]}, which this pair with a {_kind(pair)} base does not have" if lacking else ""
        )
        if name.split(":")[0] == "length" and pair.base.modality is not TEXT:
            why = f"says nothing here: all {pair.base.modality.many} are of one length to the base"
        part = getattr(detector.settings, "part", None)
        if not why and pair.base.family == "seq2seq" and part not in (None, "answer-given-question"):
            why = "scores a text, to which an encoder-decoder gives no probability; take :answer-given-question"
        if why:
            raise MissingView(f"{name} {why}; these work: {', '.join(available(pair, task))}")


def _kind(pair: Pair) -> str:
    return {"causal": "decoder-only", "seq2seq": "encoder-decoder"}.get(pair.base.family, pair.base.family)
