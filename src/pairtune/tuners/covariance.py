"""Uncentred second moments of what enters linear layers, from one pass over batches; kept in a folder if one is given.

    C = (1/S) Σ_s X_sᵀ X_s / max|X_s|²        X_s: [T_s, i] inputs of a layer at the real tokens of row s

Every row counts alike, however large its activations are (CorDA, arXiv 2406.05223; its code divides by |max X|, which
is near zero where all entries are negative). Layers that are fed one and the same tensor (queries, keys and values; the
two halves of a gated layer) share one matrix.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pairtune.errors import FormatError, InputError
from pairtune.pair.files import open_safetensors, read_json, write_json, write_safetensors
from pairtune.pair.outputs import model_inputs
from pairtune.pair.pair import evaluating
from pairtune.tuners.cache_key import KEY_FILE, make_room, token_digests

if TYPE_CHECKING:
    from pairtune.pair.base import Base

Batch = dict[str, Any]
MOST_BYTES = 4 << 30  # that all kept matrices together may take in one folder
_FILE = "moments.safetensors"


@dataclass
class Moments:
    """What was measured.

    Attributes:
        matrices: leading layer's name → [i, i] float32. leader: layer's name → the name that its matrix stands under.
        rows, tokens: how many texts and real tokens were read.
    """

    matrices: dict[str, Tensor]
    leader: dict[str, str]
    rows: int
    tokens: int

    def of(self, name: str) -> Tensor:
        """[i, i] float32, the second moment of a layer's inputs."""
        return self.matrices[self.leader[name]]


def measure(base: Base, call: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[Batch]) -> Moments:
    """Run the model over batches and accumulate the moments of these layers' inputs, padding left out.

    Args:
        call: the module to call. layers: linear layers inside the base's blocks, by name.
        batches: model inputs with an attention mask.

    Raises `InputError` without batches, and where a layer is not reached or reads nothing but zeros.
    """
    collector = _Collector(layers)
    with collector, evaluating(call), torch.no_grad():
        for batch in batches:
            for inputs in _parts(base, batch):
                inputs = {name: value.to(base.device) for name, value in inputs.items()}
                collector.begin(inputs["attention_mask"])
                call(**inputs)
    if not collector.rows:
        raise InputError("corda looks at data before it starts, and there are no rows to look at")
    if silent := [name for name in layers if name not in collector.leader]:
        raise InputError(f"corda: {silent[0]} reads nothing when the base runs over the data; name other targets")
    for name, total in collector.sums.items():
        total /= collector.rows
        if not bool(total.diagonal().sum() > 0):
            raise InputError(f"corda: {name} reads zeros only on this data; name other targets")
    return Moments(collector.sums, collector.leader, collector.rows, collector.tokens)


def measured_once(
    folder: Path | None, base: Base, call: nn.Module, layers: Mapping[str, nn.Module], batches: Sequence[Batch]
) -> Moments:
    """`measure`, read from `folder` where the same base, layers and texts were measured before, else kept there."""
    if folder is None:
        return measure(base, call, layers, batches)
    key = _key(base, call, layers, batches)
    place = folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    if (place / KEY_FILE).is_file():
        try:
            return _read(place, layers)
        except FormatError:
            pass  # torn: it is measured and written again
    found = measure(base, call, layers, batches)
    size = sum(matrix.numel() * matrix.element_size() for matrix in found.matrices.values())
    make_room(folder, place, max(MOST_BYTES - size, 0))
    place.mkdir(parents=True, exist_ok=True)
    write_safetensors(place / _FILE, found.matrices, {})
    write_json(place / KEY_FILE, {"key": key, "leader": found.leader, "rows": found.rows, "tokens": found.tokens})
    return found


def _read(place: Path, layers: Mapping[str, nn.Module]) -> Moments:
    about, stored = read_json(place / KEY_FILE), open_safetensors(place / _FILE)
    leader = {name: about["leader"][name] for name in layers}
    return Moments({name: stored.tensor(name) for name in set(leader.values())}, leader, about["rows"], about["tokens"])


def _key(base: Base, call: nn.Module, layers: Mapping[str, nn.Module], batches: Sequence[Batch]) -> dict[str, Any]:
    """What the moments depend on. Tensors of the stack below the delta stand beside the base's own."""
    total = hashlib.sha256()
    for batch in batches:
        total.update(token_digests(batch["input_ids"], batch["attention_mask"]).tobytes())
        if "decoder_input_ids" in batch:
            total.update(batch["decoder_input_ids"].cpu().numpy().tobytes())
    own = {id(parameter) for parameter in base.parameters.values()}
    stack = hashlib.sha256()
    for name, parameter in sorted(call.named_parameters()):
        if id(parameter) not in own:
            stack.update(name.encode())
            stack.update(parameter.detach().contiguous().flatten().view(torch.uint8).cpu().numpy().data)
    return {
        "base": base.fingerprint.weights,
        "dtype": str(base.dtype),
        "stack": stack.hexdigest(),
        "data": total.hexdigest(),
        "layers": sorted(layers),
    }


def _parts(base: Base, batch: Batch) -> Iterable[Batch]:
    """The batch, or its rows one by one without padding, where two masks (an encoder-decoder's) tell texts apart."""
    inputs = model_inputs(batch)
    if base.family != "seq2seq":
        yield inputs
        return
    if "decoder_input_ids" not in inputs:
        model: Any = base.model
        inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
    for row in range(len(inputs["input_ids"])):
        real = inputs["attention_mask"][row].bool()
        told = batch["labels"][row] >= 0 if "labels" in batch else None
        yield {
            "input_ids": inputs["input_ids"][row : row + 1, real],
            "attention_mask": inputs["attention_mask"][row : row + 1, real],
            "decoder_input_ids": inputs["decoder_input_ids"][row : row + 1, told if told is not None else slice(None)],
        }


class _Collector:
    """Hooks that add up XᵀX of each distinct input."""

    def __init__(self, layers: Mapping[str, nn.Module]):
        self.sums: dict[str, Tensor] = {}
        self.leader: dict[str, str] = {}
        self.rows = self.tokens = 0
        self._layers, self._mask = layers, torch.empty(0)
        self._last: tuple[Tensor, str] | None = None
        self._handles: list[Any] = []

    def begin(self, mask: Tensor) -> None:
        """A batch with this mask comes next."""
        self._mask = mask.bool()
        self.rows += len(mask)
        self.tokens += int(mask.sum())
        self._last = None

    def __enter__(self) -> None:
        for name, layer in self._layers.items():
            self._handles.append(layer.register_forward_pre_hook(self._look(name)))

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _look(self, name: str):
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            if self._last is not None and self._last[0] is x and self.leader.get(name) in (None, self._last[1]):
                self.leader[name] = self._last[1]
                return
            self._last = (x, self.leader.setdefault(name, name))
            flat = self._scaled(x.detach().float())
            product = flat.T @ flat
            kept = self.sums.get(name)
            self.sums[name] = product if kept is None else kept.add_(product)

        return hook

    def _scaled(self, x: Tensor) -> Tensor:
        """[B, T, i] → [real tokens, i], each row divided by its largest entry."""
        mask = self._mask if x.shape[:2] == self._mask.shape else self._mask.new_ones(x.shape[:2])
        x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
        largest = x.abs().amax(dim=(1, 2), keepdim=True)
        return (x / largest.masked_fill(largest == 0, 1.0))[mask]
