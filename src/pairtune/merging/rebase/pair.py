"""Move a delta to another version of its base, without training.

Lin et al., "Efficient Model Development through Fine-tuning Transfer", arXiv 2503.20110: when a new version of a base
appears, what fine-tuning added to the old one is added to the new one. It works as far as the two versions lie in one
linearly connected region, as checkpoints of one pretraining run do.

    m_t + (m_s' - m_s)        m_s: old base, m_s': its fine-tune, m_t: new base, tensor by tensor

The difference is taken in float64 and rounded once, to the type in which the fine-tune is stored; where the two bases
have the same number, the fine-tune's own is taken, so that a move onto the old base changes no bit. Norms, biases and
embeddings belong to the delta like all else. A tied head is one tensor and moves once; buffers and the configuration
stay the new base's; tokenizer, chat template and generation configuration are the fine-tune's. What is stored as a
change (low-rank adapters, sparse or dense differences) is already free of the base and moves as it is. A head, a side
network or a prompt stands in the delta alone and is not a sum with the base: it is taken over unchanged, which the log
says. Departures from the reference: rows of a grown vocabulary are those of the fine-tune, as there, but two bases with
different numbers of rows are refused, since ids in between mean different tokens.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.errors import BaseMismatch, InputError, NonFiniteError
from pairtune.merging.rebase.moving import moved_delta, moved_parameters, values_in
from pairtune.merging.rebase.versions import as_version, check_shapes, check_tokenizers, shapes_of
from pairtune.pair import hub
from pairtune.pair.apply import difference_of, install_delta
from pairtune.pair.base import Base
from pairtune.pair.card import CARD_FILE, BaseRecord, Card, LayerRecord
from pairtune.pair.checkpoint import Checkpoint
from pairtune.pair.complete import verify
from pairtune.pair.delta import Delta
from pairtune.pair.delta_io import load_delta
from pairtune.pair.export import prompt_logits
from pairtune.pair.files import read_json, safe_join
from pairtune.pair.hub import ADAPTER_FILE
from pairtune.pair.installed import DELTA_FILE
from pairtune.pair.loader import GENERATION_FILE, head_of_adapter, head_of_config, install_layer
from pairtune.pair.pair import Layer, Pair

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("pairtune")
TOKENIZER_FILE = "tokenizer_config.json"


def rebase(
    source: str | Path,
    onto: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str | None = None,
    device: str | None = None,
) -> Pair:
    """The pair of the new base and the moved delta; `save` keeps it.

    Args:
        source: a pair's folder, a PEFT folder, or a full fine-tuned checkpoint.
        onto: the new base: hub id, local folder or `zoo:<name>`.
        base: the old base, where the source does not name it or it lies elsewhere.
        dtype, device: of the new base in memory, as in `Base.load`.

    The old base is read tensor by tensor and, but for adapters that depend on it, never loaded. Raises `BaseMismatch`
    for another architecture, size or vocabulary, naming what differs, or an old base that is not the delta's;
    `InputError` where the old base is needed and not to be found; `NonFiniteError` where the moved variant says NaN.
    """
    folder = hub.local_folder(str(source))
    options = {"dtype": dtype, "device": device}
    named = None if base is None else str(base)
    if (folder / CARD_FILE).exists():
        pair = _of_pair(folder, str(onto), named, options)
    elif (folder / ADAPTER_FILE).exists():
        pair = _of_adapter(folder, str(onto), named, options)
    elif named is None:
        raise InputError(f"{source}: a full checkpoint does not say what it was tuned from; name that with --base")
    else:
        pair = _of_checkpoint(folder, str(onto), named, options)
    assert pair.card is not None
    pair.card.parents = [str(source)]
    pair.model.eval()
    if not all(bool(logits.isfinite().all()) for logits in prompt_logits(pair)):
        raise NonFiniteError(f"{onto} with the moved delta gives NaN or infinite logits; the two do not go together")
    return pair


def _of_pair(folder: Path, onto: str, named: str | None, options: Mapping[str, Any]) -> Pair:
    verify(folder)
    card = Card.load(folder)
    task, made_on = card.task or {}, card.base.source
    target = Base.load(
        onto, task=task.get("kind"), labels=task.get("labels"), quantize=card.base.quantize, **options  # type: ignore[arg-type]
    )  # fmt: skip
    check_shapes(made_on, {name: one.shape for name, one in card.fingerprint.tensors.items()}, target)
    old = _old_base(target, named or made_on, None if named else card.base.revision, must=named is not None)
    if old is not None and (difference := card.fingerprint.first_difference(old.fingerprint)):
        raise BaseMismatch(
            f"{old.source} is not the base that this delta was made on: {difference}; name that with --base"
        )
    same_words = card.fingerprint.tokenizer == target.fingerprint.tokenizer
    pair = _bare(target, folder, old, made_on, same_words)
    assert pair.card is not None
    pair.card.task, pair.card.seed = card.task, card.seed
    for record in card.stack:
        _push(pair, record, folder if record.folder == "." else safe_join(folder, record.folder), old, folder)
    return pair


def _of_adapter(folder: Path, onto: str, named: str | None, options: Mapping[str, Any]) -> Pair:
    about = read_json(folder / ADAPTER_FILE)
    made_on = named or about.get("base_model_name_or_path") or "an unknown base"
    task, labels = head_of_adapter(folder, about)
    target = Base.load(onto, task=task, labels=labels, **options)
    old = _old_base(target, made_on, None, must=named is not None)
    if old is not None:
        check_shapes(made_on, shapes_of(old), target)
    bare = _bare(target, folder, old, made_on, True)
    if _made_of_base(folder):
        delta = _on_old_base(folder, old, 0)
        pair = Pair(target, [_as_weights(target, target.model, delta, {"source": str(folder)})])
    else:
        pair = Pair.load(folder, target)
    pair.tokenizer, pair.card, pair.generation = bare.tokenizer, bare.card, bare.generation
    return pair


def _of_checkpoint(folder: Path, onto: str, made_on: str, options: Mapping[str, Any]) -> Pair:
    task, labels = head_of_config(hub.load_config(folder))
    target = Base.load(onto, task=task, labels=labels, **options)
    old = _old_base(target, made_on, None, must=True)
    assert old is not None
    check_shapes(made_on, shapes_of(old), target)
    pair = _bare(target, folder, old, made_on, False)
    if task is not None and pair.card is not None:
        pair.card.task = {"kind": task, "labels": labels}
    found = difference_of(old, Checkpoint(folder))
    trained = {name: part for name, part in found.items() if _is_trained(old, name)}
    delta = moved_delta(Delta(trained, base=old.stored), old, target)
    pair.push(_as_weights(target, target.model, delta, {"source": str(folder)}))
    return pair


def _is_trained(old: Base, name: str) -> bool:
    """Whether a stored tensor is a parameter; buffers (running statistics, tables of positions) stay the new base's."""
    memory = old.names.memory(name)
    return memory is not None and old.names.tied.get(memory, memory) in old.parameters


def _old_base(target: Base, source: str, revision: str | None, must: bool) -> Base | None:
    """The old base by its files; None where it is not to be found and need not be."""
    try:
        return as_version(target, source, revision)
    except InputError as error:
        if must or isinstance(error, BaseMismatch):
            raise
        log.warning("the old base %s is not to be found; what can be checked without it is", source)
        return None


def _bare(target: Base, folder: Path, old: Base | None, made_on: str, same_words: bool) -> Pair:
    """The new base with the fine-tune's tokenizer and generation configuration, before any delta stands on it."""
    if (folder / TOKENIZER_FILE).exists():
        tokenizer = hub.load_tokenizer(folder)
    elif old is None and not same_words:
        raise InputError(f"the fine-tune reads with the tokenizer of {made_on}, which is not to be found; name --base")
    else:
        tokenizer = old.tokenizer if old is not None else target.tokenizer
    check_tokenizers(tokenizer, target.tokenizer, target.source)
    before = "" if old is None else f" ({old.fingerprint.weights[:12]})"
    note = f"moved from {made_on}{before} onto {target.source} ({target.fingerprint.weights[:12]}) with rebase --onto"
    pair = Pair(target, tokenizer=tokenizer, card=Card(base=BaseRecord.of(target), stack=[], notes=[note]))
    for place in (folder, *([old.folder] if old is not None else [])):
        if pair.generation is None and (place / GENERATION_FILE).exists():
            pair.generation = read_json(place / GENERATION_FILE)
    return pair


def _push(pair: Pair, record: LayerRecord, place: Path, old: Base | None, folder: Path) -> None:
    """Put one delta of the old stack, moved, on the new one."""
    if record.tuner is None:
        delta = moved_delta(load_delta(place / DELTA_FILE), old, pair.base)
        pair.push(_as_weights(pair.base, pair.model, delta, record.model_dump()))
        return
    name = record.tuner["name"]
    if (place / ADAPTER_FILE).exists() and _made_of_base(place):
        delta = _on_old_base(folder, old, len(pair.layers))
        about = {**record.model_dump(), "tuner": None, "source": f"{folder}, made by {name}"}
        pair.push(_as_weights(pair.base, pair.model, delta, about))
        return
    layer = install_layer(pair, record, place)
    pair.push(layer)
    stored = values_in(place / DELTA_FILE)
    if stored is not None and any(part.needs_base for part in stored.values()):
        moved_parameters(layer.installed.variants, stored, old, pair.base)  # type: ignore[attr-defined]
    if "merge" not in layer.installed.provides or (stored and all(part.kind == "module" for part in stored.values())):
        log.warning(
            "the %s stands in the delta alone and is taken over as it is; it was made for the old base's activations: "
            "tune it on (tune --start) before you trust it", name,
        )  # fmt: skip


def _as_weights(target: Base, call: Any, delta: Delta, record: dict[str, Any]) -> Layer:
    return Layer(install_delta(target, delta, call=call), lambda: delta, record)


def _made_of_base(folder: Path) -> bool:
    """Whether a PEFT folder means another change on every base: magnitudes of DoRA, factors taken from the weights."""
    from pairtune.tuners.peft_config import read_config
    from pairtune.tuners.peft_initial import takes_from_base

    config = read_config(folder)
    return bool(getattr(config, "use_dora", False)) or takes_from_base(config) is not None


def _on_old_base(folder: Path, old: Base | None, layer: int) -> Delta:
    """The change of weights that an adapter is on its own base."""
    if old is None:
        raise InputError(f"{folder}: this adapter's change depends on the old base; name that with --base")
    return Pair.load(folder, old.source).layers[layer].delta()
