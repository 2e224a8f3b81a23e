"""The card of a pair: `pair.json`, and the model card with the hub's metadata that is made from it."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic
import yaml

from pairtune.errors import FormatError
from pairtune.method import problems_of
from pairtune.pair.checkpoint import Fingerprint
from pairtune.pair.files import read_json, write_json

if TYPE_CHECKING:
    from pairtune.pair.base import Base

CARD_FILE = "pair.json"
SCHEMA_VERSION = 1


class BaseRecord(pydantic.BaseModel):
    """Which base the delta was made on."""

    model_config = pydantic.ConfigDict(extra="forbid")
    source: str
    revision: str | None = None
    quantize: str | None = None
    fingerprint: dict[str, Any]

    @classmethod
    def of(cls, base: Base) -> BaseRecord:
        """The record of a loaded base."""
        fingerprint = base.fingerprint.to_json()
        return cls(source=base.source, revision=base.revision, quantize=base.quantize, fingerprint=fingerprint)


class LayerRecord(pydantic.BaseModel):
    """One delta of the stack: how it was made, and the hashes of its files."""

    model_config = pydantic.ConfigDict(extra="forbid")
    folder: str = "."
    tuner: dict[str, Any] | None = None
    objective: dict[str, Any] | None = None
    constraints: dict[str, Any] = {}
    training: dict[str, Any] = {}
    files: dict[str, str] = {}
    source: str | None = None


class Card(pydantic.BaseModel):
    """All that is remembered of a pair. Written as `pair.json`; an unknown field is an error."""

    model_config = pydantic.ConfigDict(extra="forbid")
    schema_version: Literal[1] = SCHEMA_VERSION
    base: BaseRecord
    stack: list[LayerRecord]
    task: dict[str, Any] | None = None
    seed: int | None = None
    metrics: dict[str, Any] = {}
    parents: list[str] = []
    versions: dict[str, str] = {}
    notes: list[str] = []
    threshold: dict[str, Any] | None = None  # of a detector, by `pairtune score --fit`

    @property
    def fingerprint(self) -> Fingerprint:
        """The base's fingerprint, checked against its own digest."""
        return Fingerprint.from_json(self.base.fingerprint)

    def save(self, folder: Path) -> None:
        """Write `pair.json` and `README.md`."""
        write_json(folder / CARD_FILE, self.model_dump(mode="json"))
        (folder / "README.md").write_text(self.model_card(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Card:
        """Read `pair.json`. Raises `FormatError` naming every field that is wrong."""
        path = Path(folder) / CARD_FILE
        data = read_json(path)
        if data.get("schema_version") != SCHEMA_VERSION:
            found = data.get("schema_version")
            raise FormatError(f"{path}: schema_version is {found!r}; this pairtune reads version {SCHEMA_VERSION}")
        try:
            return cls.model_validate(data)
        except pydantic.ValidationError as error:
            raise FormatError(f"{path}: " + "; ".join(problems_of(error))) from None

    def model_card(self) -> str:
        """Markdown with the hub's metadata header."""
        task = self.task or {}
        tuners = [record.tuner["name"] for record in self.stack if record.tuner]
        header = {
            "library_name": "pairtune",
            "base_model": self.base.source,
            "base_model_relation": "adapter",
            "tags": ["pairtune", *dict.fromkeys(tuners)],
        }
        lines = ["---", yaml.safe_dump(header, sort_keys=False).strip(), "---", ""]
        lines += [f"# A delta of {self.base.source}", ""]
        how = " then ".join(tuners) or "from two checkpoints"
        lines += [f"Made by pairtune ({how}){' on ' + task['name'] if task.get('name') else ''}.", ""]
        if self.metrics:
            lines += ["| metric | value |", "|---|---|"]
            lines += [f"| {name} | {_shown(value)} |" for name, value in self.metrics.items()]
            lines.append("")
        lines += [
            "```python",
            "import pairtune",
            "",
            'pair = pairtune.Pair.load("this-folder")',
            "```",
            "",
            "The delta fits only the base whose fingerprint stands in `pair.json`; loading checks it.",
        ]
        return "\n".join(lines) + "\n"


def library_versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {"python": platform.python_version()}
    for name in ("pairtune", "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
