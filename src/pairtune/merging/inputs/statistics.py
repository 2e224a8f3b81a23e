"""What a method has collected of a model on data: kept in a file beside the work, and mapped when it is asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pairtune.errors import FormatError
from pairtune.pair.files import SafetensorsFile, open_safetensors, write_safetensors
from pairtune.pair.staging import check_replaceable, check_writable


@dataclass
class Statistics:
    """What is known of one model; empty until it was collected.

    Attributes:
        tensors: by the names of the model's tensors; a file's are mapped, not read.
        key: tells what they depend on: the model, the rows, the method.
        about: what a card says of them.
    """

    tensors: Mapping[str, Tensor] | SafetensorsFile = field(default_factory=dict)
    key: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    def tensor(self, name: str) -> Tensor | None:
        """What was collected of a tensor; None where nothing was."""
        if name not in self.tensors:
            return None
        return self.tensors.tensor(name) if isinstance(self.tensors, SafetensorsFile) else self.tensors[name]

    def fill(self, place: Path, key: str, about: Mapping[str, Any], collect: Callable[[], dict[str, Tensor]]) -> bool:
        """Take over what an interrupted merge has left for the same key, or collect it now; True for the first."""
        path = place / f"{key[:32]}.safetensors"
        kept = _kept(path, key)
        if kept is None:
            write_safetensors(path, collect(), {"key": key, "about": json.dumps(about)})
            self.tensors = open_safetensors(path)
        else:
            self.tensors = kept
        self.key, self.about = key, about
        return kept is not None


@contextmanager
def kept_beside(out: Path) -> Iterator[Path]:
    """The folder `.<name>.statistics` beside what will be written. It stays when the process is killed or stopped with
    Ctrl-C, so that the same merge need not collect again; the end of the merge, or an error, removes it."""
    check_writable(out.parent)
    check_replaceable(out)
    place = out.with_name(f".{out.name}.statistics")
    place.mkdir(exist_ok=True)
    try:
        yield place
    except Exception:
        shutil.rmtree(place, ignore_errors=True)
        raise
    shutil.rmtree(place, ignore_errors=True)


def _kept(path: Path, key: str) -> SafetensorsFile | None:
    if not path.is_file():
        return None
    try:
        found = open_safetensors(path)
    except FormatError:
        return None
    return found if found.metadata().get("key") == key else None
