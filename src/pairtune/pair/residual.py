"""Who writes to the residual stream of a model and who reads from it, and what a norm in between does to a direction.

The stream is what the blocks hand on, of width d. Writers are the two projections of a block whose outputs are added to
it; readers are the layers that take it in: queries, keys and values, the way into the feed-forward part, a head behind
the last block. Between the stream and a layer a norm may stand, y = g ∘ C x / size(x) + b, with C the identity (RMS
norm) or C = I − 1 1ᵀ/d (layer norm, which takes the mean off). A direction u of the stream is then met by

    a reader behind a norm (pre-norm)                   as  g ∘ C u
    a writer before a norm (post-norm, sandwich norm)   as  C (g ∘ u)

Which norm stands where is seen by watching one small input go through the model, so that it holds for any architecture
whose blocks have plain attention and feed-forward parts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pairtune.errors import InputError
from pairtune.pair.modality import TEXT
from pairtune.pair.positions import examples
from pairtune.pair.sublayers import is_linear, linears, sublayers

if TYPE_CHECKING:
    from pairtune.pair.base import Base


@dataclass(frozen=True)
class Place:
    """A layer that writes to the stream or reads from it.

    Attributes:
        name: of the module in the base. block: which block it belongs to, from 0; −1 before them, their number behind.
        scale: g [d] of the norm between the layer and the stream, None where there is none. centred: whether that norm
            takes the mean off.
        turned: the weight is stored as [in, out] (Conv1D).
    """

    name: str
    block: int
    scale: Tensor | None = None
    centred: bool = False
    turned: bool = False

    def read(self, directions: Tensor) -> Tensor:
        """Directions of the stream [d, k] as a reader meets them: g ∘ C u."""
        return self._scaled(self._centre(directions))

    def reads(self, rows: Tensor) -> Tensor:
        """[d, c], each column a row of a reader's change, to the direction of the stream that it reads: C (g ∘ a)."""
        return self._centre(self._scaled(rows))

    def write(self, directions: Tensor) -> Tensor:
        """Directions of the stream [d, k] as a writer meets them: C (g ∘ u)."""
        return self._centre(self._scaled(directions))

    def writes(self, columns: Tensor) -> Tensor:
        """[d, c], each column something that the layer writes, to what arrives in the stream: g ∘ C w."""
        return self._scaled(self._centre(columns))

    def _scaled(self, columns: Tensor) -> Tensor:
        return columns if self.scale is None else self.scale.to(columns)[:, None] * columns

    def _centre(self, columns: Tensor) -> Tensor:
        return columns - columns.mean(0) if self.centred else columns


@dataclass(frozen=True)
class Stream:
    """The residual stream of a base: width d, and name → place of those that write to it and read from it."""

    width: int
    writers: dict[str, Place]
    readers: dict[str, Place]
    embeddings: dict[str, Place]


def stream_of(base: Base) -> Stream:
    """Find writers, readers and embeddings of a base; one pass over a small input, deltas off.

    Raises `InputError` for an encoder-decoder, which has two streams, and for blocks without plain halves.
    """
    if base.family == "seq2seq":
        raise InputError(
            f"{base.source}: an encoder-decoder has two residual streams, of which a direction means two things; take "
            "a decoder-only model or an encoder"
        )
    model: Any = base.pristine
    blocks = [(name, model.get_submodule(name)) for name, _ in base.blocks]
    width = base.hidden_size
    names = {id(module): name for name, module in model.named_modules()}
    seen = _Seen(model, blocks, width)
    with seen.watching(), torch.no_grad():
        model(**_small_input(base))
    writers, readers = {}, {}
    for number, (name, block) in enumerate(blocks):
        halves = sublayers(name, block)
        outs = (halves.attention_out, halves.ffn_out)
        for module in outs:
            writers[names[id(module)]] = seen.writer(names[id(module)], number, module, width)
        for path, module in linears(block):
            if module not in outs and _sizes(module)[0] == width:
                readers[f"{name}.{path}"] = seen.reader(f"{name}.{path}", number, module)
    inside = tuple(f"{name}." for name, _ in blocks)
    for name, module in linears(model):
        if not name.startswith(inside) and _sizes(module)[0] == width and seen.reads_the_stream(module):
            readers[name] = seen.reader(name, len(blocks), module)
    embeddings = {
        name: seen.embedding(name)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module.embedding_dim == width
    }
    return Stream(width, writers, readers, embeddings)


class _Seen:
    """What one pass showed: by whom the memory was filled that a layer reads, and in which order norms ran.

    Tensors are known by their memory, which views share; all are kept, so that none is used twice.
    """

    def __init__(self, model: nn.Module, blocks: list[tuple[str, nn.Module]], width: int):
        self._model, self._blocks, self._width = model, blocks, width
        self._kept: list[Tensor] = []
        self._inputs: dict[int, int] = {}  # layer → memory of its input
        self._outputs: dict[int, int] = {}  # layer → memory of its output
        self._norms: list[tuple[nn.Module, int, int]] = []  # norm, memory of its input and output, in order
        self._when: dict[int, int] = {}  # layer → how many norms ran before it
        self._stream: set[int] = set()  # memory of what enters and leaves blocks

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While inside, a pass of the model is recorded."""
        handles = [block.register_forward_pre_hook(self._enters, with_kwargs=True) for _, block in self._blocks[:1]]
        handles += [block.register_forward_hook(self._leaves) for _, block in self._blocks]
        for module in self._model.modules():
            if _kind(module):
                handles.append(module.register_forward_hook(self._normed, with_kwargs=True))
            elif is_linear(module):
                handles.append(module.register_forward_hook(self._passed, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def post(self) -> bool:
        """Whether norms stand in the stream itself: what a block hands on is a norm's output."""
        last = self._memory_of_last
        return any(out == last for module, _, out in self._norms if _kind(module) == "norm")

    def writer(self, name: str, block: int, module: nn.Module, width: int) -> Place:
        """A writer, with the norm that its output goes through before it is in the stream."""
        if _sizes(module)[1] != width:
            raise InputError(
                f"{name} writes {_sizes(module)[1]} numbers and the residual stream is {width} wide: what it writes "
                "cannot be told apart by directions of the stream"
            )
        after = self._norms[self._when[id(module)] :]
        if self.post:
            norm = next((one for one, _, _ in after if _kind(one) == "norm"), None)
        else:
            norm = next((one for one, taken, _ in after if taken == self._outputs[id(module)]), None)
        return self._place(name, block, norm, module)

    def reader(self, name: str, block: int, module: nn.Module) -> Place:
        """A reader, with the norm that stands between the stream and it."""
        read = self._inputs.get(id(module))
        if read is None or read in self._stream or self.post:
            return self._place(name, block, None, module)
        return self._place(name, block, next((one for one, _, out in self._norms if out == read), None), module)

    def embedding(self, name: str) -> Place:
        """An embedding, whose norm is the one that fills what enters the first block, where there is one."""
        norm = next((one for one, _, out in self._norms if out == self._entered), None)
        return self._place(name, -1, norm, None)

    def reads_the_stream(self, module: nn.Module) -> bool:
        """Whether a layer outside of the blocks read what a block handed on, or a norm's output."""
        read = self._inputs.get(id(module))
        return read is not None and (read in self._stream or any(out == read for _, _, out in self._norms))

    def _place(self, name: str, block: int, norm: nn.Module | None, module: nn.Module | None) -> Place:
        scale, centred = (None, False) if norm is None else gains(norm, self._width)
        return Place(name, block, scale, centred, turned=type(module).__name__ == "Conv1D")

    def _enters(self, _module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._entered = self._memory(_first(args, kwargs))
        self._stream.add(self._entered)

    def _leaves(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._memory_of_last = self._memory(output[0] if isinstance(output, tuple) else output)
        self._stream.add(self._memory_of_last)

    def _normed(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if isinstance(output, Tensor) and output.shape[-1] == self._width:
            self._norms.append((module, self._memory(_first(args, kwargs)), self._memory(output)))

    def _passed(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> None:
        self._inputs[id(module)] = self._memory(_first(args, kwargs))
        self._outputs[id(module)] = self._memory(output)
        self._when[id(module)] = len(self._norms)

    def _memory(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return tensor.untyped_storage().data_ptr()


@torch.no_grad()
def gains(norm: nn.Module, width: int) -> tuple[Tensor, bool]:
    """g [width] of a norm (or of a layer that scales every channel), and whether it takes the mean off.

    They are measured, since norms keep g in several ways (as it is, as g − 1, not at all): an input of +1 and −1 in
    turn has size 1 and mean 0, so that the odd part of the output is g times it; a constant one shows the mean.
    """
    about = next(iter(norm.parameters()), torch.zeros(()))
    signs = torch.ones(1, 1, width, dtype=about.dtype, device=about.device)
    same = signs.clone()
    signs[..., 1::2] = -1
    scale = ((norm(signs) - norm(-signs)) / 2 * signs).flatten()
    left = ((norm(same) - norm(-same)) / 2).flatten()
    return scale.float(), bool(left.norm() < 0.5 * scale.norm())


def _small_input(base: Base) -> dict[str, Tensor]:
    if base.modality is TEXT:
        ids = torch.arange(4, device=base.device).remainder(base.vocabulary_rows)[None]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {base.modality.key: examples(base, 1)[base.modality.key]}


def _kind(module: nn.Module) -> str:
    """ "norm", "scale" (a factor a channel behind a half) or nothing."""
    name = type(module).__name__.lower()
    return "norm" if "norm" in name else "scale" if "layerscale" in name else ""


def _first(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else next(iter(kwargs.values()))


def _sizes(module: Any) -> tuple[int, int]:
    """(in, out) of a linear layer."""
    return (module.in_features, module.out_features) if hasattr(module, "in_features") else (module.nx, module.nf)
