"""What a run will cost, before it starts: memory by part, time, trainable share, and how fast it could be at best."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pairtune.pair.modality import TEXT
from pairtune.training.guard import tensors_in
from pairtune.training.memory import Memory, SavedBytes, memory_of, readable
from pairtune.training.oom import is_out_of_memory, release
from pairtune.training.progress import duration
from pairtune.training.random_state import RandomState

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair
    from pairtune.training.loop import PairTrainer


@dataclass(frozen=True)
class Preflight:
    """The cost of a run.

    Attributes:
        memory: bytes by part; activations are 0 when even one micro-batch did not fit.
        seconds: estimated time of the steps that are left, from the second of two timed micro-batches; None when they
            did not fit. Validation and saving come on top.
        steps: optimizer steps; rows: rows a step.
        trainable, parameters: numbers of values.
        bound: at best how many times faster than full tuning a step can be (`speed_bound`).
    """

    memory: Memory
    seconds: float | None
    steps: int
    rows: int
    trainable: int
    parameters: int
    bound: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}}

    def table(self) -> Any:
        """For the terminal."""
        from rich.table import Table

        table = Table("before the run", "", show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_row(
            "trainable", f"{self.trainable:,} of {self.parameters:,} ({self.trainable / self.parameters:.2%})"
        )
        for name, count in asdict(self.memory).items():
            table.add_row(f"memory: {name}", readable(count))
        table.add_row("memory: together", readable(self.memory.total))
        table.add_row("steps", f"{self.steps:,}, each of {self.rows} rows")
        table.add_row("time", "memory did not suffice to measure" if self.seconds is None else duration(self.seconds))
        table.add_row("speed", f"at best {self.bound:.2g} × that of full tuning")
        return table


def preflight(trainer: PairTrainer, steps: int) -> Preflight:
    """Measure two micro-batches (forward and backward, no step). Weights, gradients and generators are as before."""
    pair = trainer.pair
    own = {id(p): p.numel() for _, p in pair.trainable()}
    everything = sum(({id(p): p.numel() for p in pair.model.parameters()} | own).values())
    with _reach(pair) as blocks:
        activations, first, again = _measure(trainer)
    reached = min(blocks, default=len(pair.base.blocks))
    seconds = None
    if first is not None and again is not None:
        new = min(steps, trainer.order.steps) if trainer.step_loss.features else steps
        seconds = trainer.order.passes * (first * new + again * (steps - new))
    return Preflight(
        memory=memory_of(pair, activations),
        seconds=seconds,
        steps=steps,
        rows=min(trainer.order.step_rows, trainer.order.rows),
        trainable=pair.top.installed.count(),
        parameters=everything,
        bound=speed_bound(pair, reached),
    )


@contextlib.contextmanager
def _reach(pair: Pair) -> Iterator[set[int]]:
    """While inside, collects the numbers of the base's blocks through which gradients will flow."""
    found: set[int] = set()

    def look(number: int, _module: nn.Module, _args: Any, output: Any) -> None:
        if any(tensor.requires_grad for tensor in tensors_in(output)):
            found.add(number)

    handles = [block.register_forward_hook(partial(look, i)) for i, (_, block) in enumerate(pair.base.blocks)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _measure(trainer: PairTrainer) -> tuple[int, float | None, float | None]:
    """Of the second of two micro-batches: bytes kept for the backward, seconds, and seconds when it comes again."""
    pair, device, loss_of = trainer.pair, trainer.args.device, trainer.step_loss
    random, modes = RandomState.now(device), [(m, m.training) for m in pair.model.modules()]
    kept, seconds = 0, []
    batches = list(itertools.islice(trainer.get_train_dataloader(), 2))
    try:
        # Once more at the end: where the base's activations are cached, later epochs are faster than the first.
        for batch in [*batches, batches[-1]]:
            batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            loss_of.step_units = max(loss_of.units(batch), 1.0)
            started = _now(device)
            with SavedBytes(pair.model) as saved:
                loss, _ = loss_of(pair.model, batch)
            if loss.requires_grad:
                loss.backward()
            kept = saved.bytes
            seconds.append(_now(device) - started)
            del loss
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        kept, seconds = 0, [None, None]
    finally:
        loss_of.sums.parts, loss_of.modes_set = {}, False
        pair.begin_step()
        for _, parameter in pair.trainable():
            parameter.grad = None
        for module, mode in modes:
            module.training = mode
        random.restore(device)
        if device.type == "cuda" or not kept:
            release()
    return kept, seconds[-2], seconds[-1]


def speed_bound(pair: Pair, first: int) -> float:
    """Full tuning's work a token, 6 N, over this run's: 2 N forward, 2 N (1 − k/L) back through the blocks that
    gradients reach (from number k = `first` of L), 2 for each trained parameter among them. LoRA on all blocks: at
    most 6/4 = 1.5.

    N are the base's weights that multiply (not the embedding table, which is looked up). Side networks are left out:
    this is what no implementation can beat.
    """
    looked_up, embedding = _looked_up(pair)
    inside = {id(p): p for p in pair.base.model.parameters()}
    count = max(sum(p.numel() for p in pair.base.parameters.values()) - looked_up, 1)
    trained = sum(p.numel() for p in inside.values() if p.requires_grad and not (looked_up and p is embedding))
    blocks = max(len(pair.base.blocks), 1)
    return 6 * count / (2 * count + 2 * count * (1 - first / blocks) + 2 * min(trained, count))


def _looked_up(pair: Pair) -> tuple[int, Any]:
    """How many weights stand in a table that is looked up, and the table; images and sound have none."""
    if pair.base.modality is not TEXT:
        return 0, None
    embedding: Any = pair.base.model.get_input_embeddings().weight
    head = pair.base.model.get_output_embeddings()
    return (0 if head is not None and head.weight is embedding else embedding.numel()), embedding


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
