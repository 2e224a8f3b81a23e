"""The side network of the tuner `qst`: the base's own kind of blocks, narrow, what feeds them and what they give."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pairtune.errors import InputError
from pairtune.pair.logprobs import returning
from pairtune.pair.modality import TEXT
from pairtune.pair.names import blocks

if TYPE_CHECKING:
    from transformers import DynamicCache, PretrainedConfig

    from pairtune.pair.base import Base

_INNER = ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "hidden_dim")
_LIMIT = 64  # of the reductions that an error names


class Side(nn.Module):
    """Everything that trains beside the base.

    Args:
        base: whose kind of blocks is taken. Others as the tuner's settings.
    """

    def __init__(self, base: Base, reduction: int, down: str, rank: int, gate: str):
        super().__init__()
        width, depth = base.hidden_size, len(base.blocks)
        narrow = width // reduction
        self.net = narrow_model(base, reduction)
        self.down = nn.ModuleList(_down(down, width, narrow, rank) for _ in range(depth))
        self.gates = nn.Parameter(torch.full((depth, narrow), 0.5))
        self.up = nn.Linear(narrow, width)
        self.mix = nn.Parameter(torch.ones(width))
        self._sigmoid = gate == "sigmoid"
        self._reads = base.modality
        self._start = torch.empty(0)
        self._rungs: list[Tensor] = []
        for i, (_, block) in enumerate(blocks(self.net)):
            block.register_forward_pre_hook(self._feed(i), with_kwargs=True)

    def forward(self, start: Tensor, rungs: list[Tensor], **inputs: Any) -> Tensor:
        """norm_side(q_L) [B, T, d_s] from q_0 and the narrowed outputs of all blocks, [B, T, d_s] each.

        Args:
            inputs: attention mask, positions and cache, as the base was given them.
        """
        # They are kept: a checkpointed block runs again in the backward.
        self._start, self._rungs = start, rungs
        if self._reads is TEXT:
            return self.net(inputs_embeds=start, **inputs).last_hidden_state
        with returning(_embeddings(self.net), start):
            return self.net(**{self._reads.key: start}).last_hidden_state

    def mixed(self, own: Tensor, hidden: Tensor) -> Tensor:
        """H* [B, T, d] from norm_side(q_L) and the base's own, in the base's type."""
        share = torch.sigmoid(self.mix) if self._sigmoid else self.mix
        wide = self.up(own[:, -hidden.shape[1] :])
        return ((1 - share) * wide + share * hidden).to(hidden.dtype)

    def _feed(self, i: int):
        def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            z = torch.sigmoid(self.gates[i])
            # What the narrow model's own embeddings made of q_0 does not count.
            before = self._start if i == 0 else (args[0] if args else kwargs["hidden_states"])
            fed = (1 - z) * self._rungs[i] + z * before
            return ((fed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": fed})

        return hook


def narrow_model(base: Base, reduction: int) -> nn.Module:
    """A model of the base's architecture without a head: all blocks, each `reduction` times narrower, random.

    Raises `InputError` where the width, or a head's, cannot be divided so, or the architecture cannot be built so.
    """
    from transformers import AutoModel

    config = narrow_config(base, reduction)
    try:
        model = AutoModel.from_config(config, dtype=torch.float32)
    except (ValueError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
        raise InputError(f"tuner qst: no narrow blocks of {type(base.model).__name__} can be made ({error})") from None
    if len(blocks(model)) != len(base.blocks):
        raise InputError(f"tuner qst: {type(base.model).__name__} has blocks that its configuration does not name")
    return model.eval()


def _embeddings(net: nn.Module) -> nn.Module:
    """The part of a model of images or sound that makes positions of its input. Raises `InputError` without one."""
    named = [module for name, module in net.named_modules() if name.rpartition(".")[2] == "embeddings"]
    if not named:
        raise InputError(f"tuner qst: {type(net).__name__} has no embeddings apart from its blocks")
    return named[0]


def narrow_config(base: Base, reduction: int) -> PretrainedConfig:
    """The base's configuration with width, heads' width and inner width divided; one row of embeddings, no dropout."""
    config: Any = copy.deepcopy(base.model.config.get_text_config())
    width, heads = base.hidden_size, config.num_attention_heads
    head = getattr(config, "head_dim", None) or width // heads
    rotary = bool(getattr(config, "rope_parameters", None))

    def fits(r: int) -> bool:
        return width % r == 0 and (width // r) % heads == 0 and head % r == 0 and not (rotary and head // r % 2)

    if not fits(reduction):
        possible = [str(r) for r in range(2, _LIMIT + 1) if fits(r)]
        raise InputError(
            f"tuner.reduction: {width} in {heads} heads of {head} cannot be made {reduction} times narrower"
            + (f"; these work: {', '.join(possible)}" if possible else "; no reduction works, take the tuner ladder")
        )
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if getattr(config, "head_dim", None):
        config.head_dim = head // reduction
    for name in _INNER:
        if isinstance(getattr(config, name, None), int):
            setattr(config, name, max(getattr(config, name) // reduction, 1))
    config.hidden_size = width // reduction
    if hasattr(config, "word_embed_proj_dim"):
        config.word_embed_proj_dim = width // reduction
    config.vocab_size, config.pad_token_id, config.use_cache = 1, 0, False
    for name, value in vars(config).items():
        if isinstance(value, float) and ("drop" in name):
            setattr(config, name, 0.0)
    return config


def side_cache(cache: Any, depth: int, config: PretrainedConfig) -> DynamicCache:
    """The side's part of the base's cache: layers behind the base's own, so that one cache holds and reorders both.

    Args:
        cache: the base's, already with this step's keys. depth: number of the base's blocks.

    Raises `InputError` for a cache of fixed size.
    """
    from transformers import DynamicCache

    if not isinstance(cache, DynamicCache):
        raise InputError(
            f"tuner qst: a side network needs a growing cache (DynamicCache), found {type(cache).__name__}"
        )
    if len(cache.layers) == depth:
        cache.layers.extend(DynamicCache(config=config).layers)
    view = DynamicCache(config=config)
    view.layers = cache.layers[depth:]
    return view


class _Pool(nn.Module):
    """Neighbouring channels to their largest or mean; trains nothing."""

    def __init__(self, narrow: int, largest: bool):
        super().__init__()
        self._narrow, self._largest = narrow, largest

    def forward(self, hidden: Tensor) -> Tensor:
        groups = hidden.unflatten(-1, (self._narrow, -1))
        return groups.amax(-1) if self._largest else groups.mean(-1)


def _down(kind: str, width: int, narrow: int, rank: int) -> nn.Module:
    """[B, T, width] → [B, T, narrow]."""
    if kind == "linear":
        return nn.Linear(width, narrow)
    if kind in ("max-pool", "avg-pool"):
        return _Pool(narrow, kind == "max-pool")
    first, second = nn.Linear(width, rank, bias=False), nn.Linear(rank, narrow, bias=False)
    return (
        nn.Sequential(first, second)
        if kind == "lora"
        else nn.Sequential(first, nn.SiLU(), second, nn.LayerNorm(narrow))
    )
