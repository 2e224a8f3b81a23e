"""A module that works beside a frozen base, tapping its blocks by hooks while the variant runs, and its switch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pairtune.pair.installed import Installed, check_state

if TYPE_CHECKING:
    from pairtune.pair.base import Base
    from pairtune.pair.delta import Delta
    from pairtune.tuners.dense import InstalledDense


class Beside(nn.Module):
    """The base with something beside it, which hooks on the base's modules bring in while it is active.

    Args:
        base: the base. call: the module to call for the stack below. side: what trains beside it.

    Attributes:
        active: whether the hooks do anything. It outlasts a forward: checkpointed blocks run again in the backward.
    """

    def __init__(self, base: Base, call: nn.Module, side: nn.Module):
        super().__init__()
        self.base_model = call
        self.side = side
        self.config = base.model.config
        self.active = True

    def forward(self, **inputs: Any) -> Any:
        """The base's own output, changed by what is beside it."""
        return self.base_model(**inputs)


class Climbing(Beside):
    """The base with a side network that is fed by what enters its first block and what leaves each."""

    def __init__(self, base: Base, call: nn.Module, side: nn.Module):
        super().__init__(base, call, side)
        blocks = [block for _, block in base.blocks]
        self.depth = len(blocks)
        blocks[0].register_forward_pre_hook(self._before, with_kwargs=True)
        for i, block in enumerate(blocks):
            block.register_forward_hook(partial(self._behind, i))

    def enter(self, hidden: Tensor) -> None:
        """What enters the first block, [B, T, d]."""
        raise NotImplementedError

    def rung(self, i: int, hidden: Tensor) -> Tensor | None:
        """What leaves block i, from 0, [B, T, d]; what is returned takes its place."""
        raise NotImplementedError

    def _before(self, _module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self.active:
            self.enter(args[0] if args else kwargs["hidden_states"])

    def _behind(self, i: int, _module: nn.Module, _args: Any, output: Any) -> Any:
        if not self.active:
            return None
        whole = isinstance(output, tuple)
        changed = self.rung(i, output[0] if whole else output)
        return (changed, *output[1:]) if whole and changed is not None else changed


class InstalledBeside(Installed):
    """What stands beside a base, and the base's own parameters that train with it (a new head, norms).

    Running statistics of the side belong to its state.
    """

    model: Beside

    def __init__(self, model: Beside, provides: Iterable[str], dense: InstalledDense | None):
        super().__init__(model, provides)
        self._dense = dense
        side = [(f"side.{name}", p) for name, p in model.side.named_parameters() if p.requires_grad]
        self._trainable = [*side, *(dense.trainable() if dense else [])]
        self._buffers = {
            f"side.{name}": buffer for name, buffer in model.side.named_buffers() if buffer.is_floating_point()
        }

    def delta(self) -> Delta:
        """Tensors that stand alone, also the base's parameters that train with the side; a copy."""
        from pairtune.pair.delta import Delta
        from pairtune.pair.parts import Module

        return Delta({name: Module(value.clone()) for name, value in self.state().items()})

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        return list(self._trainable)

    def state(self) -> dict[str, Tensor]:
        return super().state() | {name: buffer.detach() for name, buffer in self._buffers.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        check_state({**dict(self.trainable()), **self._buffers}, tensors)
        super().load_state({name: tensor for name, tensor in tensors.items() if name not in self._buffers})
        for name, buffer in self._buffers.items():
            buffer.copy_(tensors[name])

    def frozen_modules(self) -> list[nn.Module]:
        # Norms and a head that train are parameters of the base too; its dropout stays off all the same.
        return [self.model.base_model]

    def on(self) -> None:
        self.model.active = True
        if self._dense:
            self._dense.on()

    def off(self) -> None:
        self.model.active = False
        if self._dense:
            self._dense.off()

    def first_changed(self) -> int:
        # Hooks may read any block: none may be skipped.
        return 0


def install_beside(base: Base, call: nn.Module, make: Callable[[], Beside], provides: Iterable[str]) -> InstalledBeside:
    """Freeze what is there and put a module beside the base; a new head trains with it.

    Args:
        call: the module to call for the stack below. make: makes the module, which trains.
    """
    from pairtune.tuners.dense import InstalledDense

    call.requires_grad_(False)
    head = InstalledDense(base, sorted(base.new_names), (), call) if base.new_names else None
    return InstalledBeside(make().eval(), provides, head)
