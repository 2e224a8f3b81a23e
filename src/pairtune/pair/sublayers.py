"""The two halves of a transformer block, attention and feed-forward, found by structure on any model.

A block's attention is every child whose class says so; what else is linear in the block is its feed-forward part. An
adapter needs to know where each half's contribution comes out, before it is added to the residual stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from pairtune.errors import InputError

_CROSS = ("crossattention", "encdecattention", "encoder_attn")


@dataclass(frozen=True)
class Sublayers:
    """Modules of one block.

    Attributes:
        attention_in: the first layer that reads the self-attention's input. attention_out: its output projection.
        ffn_in, ffn_out: the same of the feed-forward part.
        norms: the normalisation layers outside of both halves' projections, in the order of definition.
    """

    attention_in: nn.Module
    attention_out: nn.Module
    ffn_in: nn.Module
    ffn_out: nn.Module
    norms: tuple[nn.Module, ...]


def sublayers(name: str, block: nn.Module) -> Sublayers:
    """The halves of one block. Raises `InputError` naming the block where they cannot be told apart."""
    selves, crosses = _attentions(block)
    layers = linears(block)
    own = [(path, module) for path, module in layers if _within(path, selves) and not _within(path, crosses)]
    feed = [(path, module) for path, module in layers if not _within(path, [*selves, *crosses])]
    if not own:
        raise InputError(f"{name}: no self-attention is found in {type(block).__name__}, and this method needs one")
    if len(feed) < 2:
        raise InputError(
            f"{name}: {len(feed)} linear layers are found outside of attention in {type(block).__name__}; this "
            "method needs a plain feed-forward part (mixtures of experts have none)"
        )
    norms = tuple(module for _, module in block.named_modules() if "norm" in type(module).__name__.lower())
    return Sublayers(own[0][1], own[-1][1], feed[0][1], feed[-1][1], norms)


def _attentions(block: nn.Module) -> tuple[list[str], list[str]]:
    """Paths of the outermost self-attentions and cross-attentions."""
    selves: list[str] = []
    crosses: list[str] = []
    for path, module in block.named_modules():
        if not path or _within(path, [*selves, *crosses]):
            continue
        kind = type(module).__name__.lower()
        if any(word in kind or word in path.lower() for word in _CROSS):
            crosses.append(path)
        elif ("attention" in kind or "attn" in kind) and "norm" not in kind:
            selves.append(path)
    return selves, crosses


def linears(block: nn.Module) -> list[tuple[str, nn.Module]]:
    """The outermost linear layers inside a module by name, also those that an adapter has wrapped."""
    found: list[tuple[str, nn.Module]] = []
    for path, module in block.named_modules():
        if path and not _within(path, [one for one, _ in found]) and is_linear(module):
            found.append((path, module))
    return found


def is_linear(module: Any) -> bool:
    """Whether a module is a linear layer by what it has: `nn.Linear`, a quantised or a wrapped one, a Conv1D."""
    return (hasattr(module, "in_features") and hasattr(module, "out_features")) or type(module).__name__ == "Conv1D"


def _within(path: str, roots: list[str]) -> bool:
    return any(path == root or path.startswith(root + ".") for root in roots)
