"""Steering vectors: directions of the residual stream by block, what they were made from, and their file.

A file is safetensors with tensors `direction.N` [d], N being the block behind which the direction is added, counted
from 0, and metadata that says what the directions were made from and on which base. Files of other tools with the same
tensors are read, too; so is the control-vector form of GGUF (`control_vector.py`). Strength 1 adds a direction as it
stands in the file.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.errors import BaseMismatch, FormatError, InputError
from pairtune.pair.files import open_safetensors, write_safetensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pairtune.pair.base import Base

log = logging.getLogger("pairtune")
_NAME = re.compile(r"direction\.(0|[1-9]\d{0,5})")


@dataclass(frozen=True, eq=False)
class SteeringVectors:
    """Directions of the residual stream.

    Attributes:
        directions: block, counted from 0 (of an encoder-decoder, in the decoder) → [d] float32.
        about: what they were made from; anything that JSON has.
        base: the fingerprint (weights) of the base that they were made on; None where the file does not say.
        source: how messages name them.
    """

    directions: dict[int, Tensor]
    about: dict[str, Any] = field(default_factory=dict)
    base: str | None = None
    source: str = "the vector"

    @property
    def width(self) -> int:
        """d, the length of a direction."""
        return len(next(iter(self.directions.values())))

    def only(self, block: int) -> SteeringVectors:
        """The direction behind one block alone. Raises `InputError` where there is none."""
        if block not in self.directions:
            there = ", ".join(map(str, self.directions))
            raise InputError(f"{self.source} has no direction behind block {block} (blocks: {there})")
        return replace(self, directions={block: self.directions[block]})

    def scaled(self, strength: float) -> SteeringVectors:
        """All directions times a finite number."""
        if not math.isfinite(strength):
            raise InputError(f"{self.source}: a strength is a finite number, found {strength}")
        return replace(self, directions={block: strength * one for block, one in self.directions.items()})

    def check_shape(self, base: Base) -> None:
        """Raise `InputError` where the directions have another width than the base, or stand behind blocks it lacks."""
        count, width = len(steerable(base)), base.hidden_size
        if self.width != width:
            raise InputError(
                f"{self.source}: its directions have {self.width} numbers, the residual stream of {base.source} has "
                f"{width}; they belong to another base"
            )
        if max(self.directions) >= count:
            raise InputError(
                f"{self.source} has a direction behind block {max(self.directions)}, {base.source} has the blocks 0 to "
                f"{count - 1}; they belong to another base"
            )

    def check(self, base: Base, onto: bool = False) -> None:
        """Raise where the directions were not made on this base: as `check_shape`, then `BaseMismatch`.

        `onto` accepts another fingerprint, with a line in the log; a file that records none gets a line, too.
        """
        self.check_shape(base)
        if self.base is None:
            log.warning("%s is UNVERIFIED: it does not say on which base it was made", self.source)
        elif self.base != base.fingerprint.weights:
            if not onto:
                raise BaseMismatch(f"{self.source} was not made on {base.source}; --onto steers with it all the same")
            log.warning("%s was not made on %s; it steers all the same, as asked", self.source, base.source)

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all: GGUF where its name ends in .gguf, else safetensors.

        Raises as `write_control_vector` does.
        """
        if Path(path).suffix.lower() == ".gguf":
            from pairtune.generation.control_vector import write_control_vector

            write_control_vector(self, Path(path))
            return
        tensors = {f"direction.{block}": one.detach().cpu().clone() for block, one in sorted(self.directions.items())}
        write_safetensors(path, tensors, self.notes())

    def notes(self) -> dict[str, str]:
        """What a file says beside the tensors, text to text."""
        found = {"pairtune.about": json.dumps(self.about, ensure_ascii=False)}
        return found | ({"pairtune.base": self.base} if self.base else {})

    @classmethod
    def load(cls, path: str | Path) -> SteeringVectors:
        """Read a file of either form.

        Raises `InputError` where there is none, `FormatError` for one that holds something else or is damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: there is no such file of steering vectors; `pairtune steer` writes them")
        if path.suffix.lower() == ".gguf":
            from pairtune.generation.control_vector import read_control_vector

            return cls.of(*read_control_vector(path), str(path))
        stored = open_safetensors(path)
        return cls.of({name: stored.tensor(name) for name in stored}, stored.metadata(), str(path))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], notes: Mapping[str, str], source: str) -> SteeringVectors:
        """From what a file holds. Raises `FormatError` for tensors that are no directions."""
        strange = next((name for name in tensors if not _NAME.fullmatch(name)), None)
        if strange is not None or not tensors:
            found = "no tensor" if strange is None else repr(strange[:80])
            raise FormatError(f"{source}: expected tensors direction.0, direction.1, ..., found {found}")
        directions = {int(name.rpartition(".")[2]): tensor.float() for name, tensor in tensors.items()}
        for block, one in directions.items():
            if one.ndim != 1 or not len(one) or not one.isfinite().all():
                raise FormatError(
                    f"{source}: direction.{block} should be a row of finite numbers, found {list(one.shape)}"
                )
        if len({len(one) for one in directions.values()}) > 1:
            raise FormatError(f"{source}: its directions are of several lengths, so that no model fits all of them")
        try:
            about = json.loads(notes.get("pairtune.about", "{}"))
        except (ValueError, RecursionError):
            about = None
        if not isinstance(about, dict):
            raise FormatError(f"{source}: what it says of itself is no JSON object")
        return cls(dict(sorted(directions.items())), about, notes.get("pairtune.base"), source)


def steerable(base: Base) -> list[nn.Module]:
    """The blocks behind which directions are added, in order: all, of an encoder-decoder those of its decoder."""
    if base.family != "seq2seq":
        return [module for _, module in base.blocks]
    model: Any = base.model
    inside = {id(module) for module in model.get_decoder().modules()}
    return [module for _, module in base.blocks if id(module) in inside]


def parse(word: str) -> tuple[str, float]:
    """`FILE:strength` or `FILE` as people type it. Raises `InputError` where the strength is not a finite number."""
    path, colon, strength = word.rpartition(":")
    if not colon or Path(word).exists():
        return word, 1.0
    try:
        value = float(strength)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"--steer {word}: expected FILE or FILE:strength, and {strength!r} is not a number")
    return path, value


def summed(vectors: list[SteeringVectors]) -> dict[int, Tensor]:
    """Block → [d] the sum of all directions behind it."""
    found: dict[int, Tensor] = {}
    for one in vectors:
        for block, direction in one.directions.items():
            found[block] = found[block] + direction if block in found else direction
    return found
