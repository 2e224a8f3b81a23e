"""One way in and one way out: whatever people have becomes a pair, and a pair becomes a folder.

What is accepted: a pairtune folder, a PEFT adapter folder, and two full checkpoints. A delta is refused on a base with
another fingerprint, and everything about it is checked before anything large is allocated.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from pairtune import registry
from pairtune.errors import BaseMismatch, InputError
from pairtune.pair import hub
from pairtune.pair.apply import difference_of, install_delta
from pairtune.pair.base import Base
from pairtune.pair.card import CARD_FILE, BaseRecord, Card, LayerRecord, library_versions
from pairtune.pair.checkpoint import Checkpoint, tokenizer_digest
from pairtune.pair.complete import verify
from pairtune.pair.delta_io import load_delta, save_delta
from pairtune.pair.files import open_safetensors, read_json, safe_join, write_json
from pairtune.pair.hub import ADAPTER_FILE
from pairtune.pair.installed import DELTA_FILE
from pairtune.pair.modality import HEADS, TEXT
from pairtune.pair.pair import Layer, Pair
from pairtune.pair.processor import PROCESSOR_FILE
from pairtune.pair.staging import staged_folder

log = logging.getLogger("pairtune")
GENERATION_FILE = "generation_config.json"


def load_pair(
    source: str | Path,
    base: Base | str | None = None,
    *,
    onto: bool = False,
    allow_partial: bool = False,
    dtype: str | None = None,
    device: str | None = None,
) -> Pair:
    """Load a pair from a pairtune folder, a PEFT adapter folder, or a fine-tuned checkpoint with its base.

    Args:
        source: local folder or hub id.
        base: the base, where the source does not record it or another place of it is wanted.
        onto: apply the delta to a base with another fingerprint; recorded in the card.
        allow_partial: accept a PEFT adapter that lacks some of its tensors.

    Raises `BaseMismatch` naming the first differing tensor, `DeltaMismatch` for missing, unexpected or non-finite
    tensors, `FormatError` for damaged files.
    """
    folder = hub.local_folder(str(source), None)
    if (folder / CARD_FILE).exists():
        verify(folder)
    if not isinstance(base, Base):
        base = Base.load(**base_wanted(folder, base), dtype=dtype, device=device)
    if (folder / CARD_FILE).exists():
        return _from_card(folder, base, onto)
    if (folder / ADAPTER_FILE).exists():
        return _from_adapter(folder, base, allow_partial)
    return from_checkpoints(base, str(source))


def base_wanted(folder: Path, base: str | None) -> dict[str, Any]:
    """What `Base.load` has to be asked for to open the pair in a folder: the base, its head, its revision, its form.

    Raises `InputError` where no base is named, here or there.
    """
    if (folder / CARD_FILE).exists():
        card = Card.load(folder)
        task = card.task or {}
        revision = card.base.revision if base is None else None
        head = {"task": task.get("kind"), "labels": task.get("labels")}
        return {"source": base or card.base.source, "revision": revision, "quantize": card.base.quantize, **head}
    if (folder / ADAPTER_FILE).exists():
        config = read_json(folder / ADAPTER_FILE)
        source = base or config.get("base_model_name_or_path")
        if source is None:
            raise InputError(f"{folder.name}: adapter_config.json names no base; give it with --base")
        task, labels = head_of_adapter(folder, config)
        return {"source": source, "task": task, "labels": labels}
    if base is None:
        raise InputError(f"{folder}: neither {CARD_FILE} nor {ADAPTER_FILE} is here; a full checkpoint needs --base")
    task, labels = head_of_config(hub.load_config(folder))
    return {"source": base, "task": task, "labels": labels}


def from_checkpoints(
    base: Base | str, finetuned: str | Path, *, dtype: str | None = None, device: str | None = None
) -> Pair:
    """The pair of a base and a full fine-tuned checkpoint of it (also a merged model)."""
    folder = hub.local_folder(str(finetuned), None)
    if not isinstance(base, Base):
        base = Base.load(**base_wanted(folder, base), dtype=dtype, device=device)
    delta = difference_of(base, Checkpoint(folder))
    if base.modality is not TEXT:
        _same_processor(base, folder)
        installed = install_delta(base, delta)
        return Pair(base, [Layer(installed, lambda: delta, {"source": str(finetuned)})])
    tokenizer = hub.load_tokenizer(folder)
    if len(tokenizer) < len(base.tokenizer) or not _extends(tokenizer, base.tokenizer):
        raise BaseMismatch(f"{finetuned}: its vocabulary is not {base.source}'s, so that token ids mean other things")
    installed = install_delta(base, delta)
    return Pair(base, [Layer(installed, lambda: delta, {"source": str(finetuned)})], tokenizer=tokenizer)


def _from_card(folder: Path, base: Base, onto: bool) -> Pair:
    card = Card.load(folder)
    _check_base(card, base, onto)
    pair = Pair(base, card=card)
    for record in card.stack:
        where = safe_join(folder, record.folder) if record.folder != "." else folder
        pair.push(install_layer(pair, record, where))
    pair.model.eval()
    if (folder / "tokenizer_config.json").exists():
        pair.tokenizer = hub.load_tokenizer(folder)
    if (folder / GENERATION_FILE).exists():
        pair.generation = read_json(folder / GENERATION_FILE)
    return pair


def install_layer(pair: Pair, record: LayerRecord, folder: Path) -> Layer:
    """Put one recorded delta on the pair's stack, through its tuner or, without one, as plain weights."""
    if record.tuner is None:
        delta = load_delta(folder / DELTA_FILE, base=pair.base.stored)
        return Layer(install_delta(pair.base, delta, call=pair.model), lambda: delta, record.model_dump())
    settings = dict(record.tuner)
    tuner = registry.build("tuners", settings.pop("name"), settings)
    installed = tuner.restore(pair.base, pair.model, folder)
    return Layer(installed, lambda: tuner.extract(installed), record.model_dump())


def _from_adapter(folder: Path, base: Base, allow_partial: bool) -> Pair:
    config = read_json(folder / ADAPTER_FILE)
    log.warning(
        "%s is UNVERIFIED: PEFT records no fingerprint, so that nothing proves it was made on %s",
        folder.name,
        base.source,
    )
    kind = str(config.get("peft_type", "lora")).lower()
    tuner = registry.build("tuners", "peft", {"type": kind})
    installed = tuner.restore(base, base.model, folder, allow_partial=allow_partial)
    pair = Pair(base)
    record = {"tuner": {"name": f"peft:{kind}"}, "source": str(folder)}
    pair.push(Layer(installed, lambda: tuner.extract(installed), record))
    pair.model.eval()
    return pair


def head_of_adapter(folder: Path, config: dict[str, Any]) -> tuple[str | None, list[str] | None]:
    """The head that a classification adapter brings along; PEFT records its shape, not its labels."""
    if config.get("task_type") != "SEQ_CLS":
        return None, None
    stored = open_safetensors(folder / "adapter_model.safetensors")
    sizes = [stored.shape(name)[0] for name in stored if name.endswith(("classifier.weight", "score.weight"))]
    sizes += [stored.shape(name)[0] for name in stored if name.endswith("out_proj.weight") and "classifier" in name]
    if not sizes:
        return None, None
    return "regression" if sizes[-1] == 1 else "classification", [f"LABEL_{i}" for i in range(sizes[-1])]


def save_pair(pair: Pair, folder: Path, card: Card | None = None) -> Card:
    """Write a pair's folder: the deltas, `pair.json`, the model card and, where the pair has its own, the tokenizer.

    Written beside and renamed: a crash leaves the old folder or the new one.
    """
    card = card or pair.card or Card(base=BaseRecord.of(pair.base), stack=[])
    with staged_folder(Path(folder)) as staging:
        stack = []
        for i, layer in enumerate(pair.layers):
            top = i == len(pair.layers) - 1
            place = staging if top else staging / "stack" / str(i)
            place.mkdir(parents=True, exist_ok=True)
            files = _write(layer, place)
            known = {k: v for k, v in layer.record.items() if k in LayerRecord.model_fields}
            record = LayerRecord.model_validate({**known, "folder": "." if top else f"stack/{i}"})
            stack.append(record.model_copy(update={"files": {name: _sha256(place / name) for name in files}}))
        if _has_own_tokenizer(pair):
            pair.tokenizer.save_pretrained(staging)
        if pair.generation is not None:
            write_json(staging / GENERATION_FILE, pair.generation)
        update: dict[str, Any] = {"stack": stack, "base": BaseRecord.of(pair.base), "versions": library_versions()}
        card = card.model_copy(update=update)
        card.save(staging)
    return card


def _has_own_tokenizer(pair: Pair) -> bool:
    mine, bases = pair.tokenizer, pair.base.tokenizer
    if tokenizer_digest(mine) != tokenizer_digest(bases):
        return True
    return getattr(mine, "chat_template", None) != getattr(bases, "chat_template", None)


def _write(layer: Layer, place: Path) -> list[str]:
    """Write one delta's files: through its tuner's handle or, without a tuner, as plain weights."""
    if layer.record.get("tuner") is not None:
        return layer.installed.write(place)
    save_delta(layer.delta(), place / DELTA_FILE)
    return [DELTA_FILE]


def _check_base(card: Card, base: Base, onto: bool) -> None:
    expected, found = card.fingerprint, base.fingerprint
    if expected.weights != found.weights:
        message = f"this delta was made on {card.base.source}, not on {base.source}: {expected.first_difference(found)}"
        if not onto:
            raise BaseMismatch(f"{message}; --onto applies it all the same")
        log.warning("%s; applied all the same, as asked", message)
        card.notes.append(f"applied onto {base.source} ({found.weights[:12]})")
    if expected.tokenizer != found.tokenizer and not onto:
        raise BaseMismatch(f"the tokenizer of {base.source} is not the one this delta was made with")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def head_of_config(config) -> tuple[str | None, list[str] | None]:
    """What head a fine-tuned encoder checkpoint has, from its configuration."""
    if not any(name.endswith(HEADS) for name in config.architectures or ()):
        return None, None
    kinds = {"regression": "regression", "multi_label_classification": "multilabel"}
    labels = [config.id2label[i] for i in range(config.num_labels)]
    return kinds.get(config.problem_type or "", "regression" if len(labels) == 1 else "classification"), labels


def _same_processor(base: Base, folder: Path) -> None:
    """A fine-tuned checkpoint must see its inputs as the base does, if it says at all how it sees them."""
    if (folder / PROCESSOR_FILE).is_file():
        own = hub.load_processor(folder, base.modality.name, getattr(base.tokenizer, "channels", 3))
        if own.digest() != base.tokenizer.digest():
            raise BaseMismatch(
                f"{folder.name}: it prepares {base.modality.many} in another way than {base.source} ({PROCESSOR_FILE})"
            )


def _extends(tokenizer, base_tokenizer) -> bool:
    """Whether every token of the base keeps its id."""
    vocabulary = tokenizer.get_vocab()
    return all(vocabulary.get(token) == i for token, i in base_tokenizer.get_vocab().items())
