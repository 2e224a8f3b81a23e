"""Are these models of one family? Architectures and vocabularies, compared before any work and shown side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pairtune.errors import BaseMismatch
from pairtune.merging.inputs.sources import Source
from pairtune.pair.files import read_json

_CONFIG = "config.json"
# What must agree for tensors of the same name and shape to mean the same.
_FIELDS = (
    "model_type",
    "hidden_act",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rope_theta",
    "rope_parameters",
    "sliding_window",
)
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def config_of(source: Source) -> dict[str, Any]:
    """A model's `config.json`; empty where its folder has none of its own (an adapter)."""
    path = None if source.folder is None else source.folder / _CONFIG
    return read_json(path, constants=True) if path is not None and path.exists() else {}


def vocabulary_rows(config: Mapping[str, Any]) -> int | None:
    """How many rows the embedding has, by the configuration."""
    inner = config.get("text_config")
    found = config.get("vocab_size", inner.get("vocab_size") if isinstance(inner, Mapping) else None)
    return found if isinstance(found, int) else None


def check_same_family(models: Sequence[Source], home: Source, but: str = "") -> None:
    """Refuse models of another architecture than `home`, with a table of all that differs. Raises `BaseMismatch`.

    `but` is a field of the configuration that may differ.
    """
    expected = config_of(home)
    for source in (home, *models):
        if config_of(source).get("quantization_config"):
            raise BaseMismatch(
                f"{source.label} is stored quantised, and merging its codes would destroy it; take it unquantised"
            )
    rows = []
    for model in models:
        found = config_of(model)
        if found and expected:
            rows += [
                (name, home.label, _shown(expected.get(name)), model.label, _shown(found.get(name)))
                for name in _FIELDS
                if name != but and found.get(name) != expected.get(name)
            ]
    if rows:
        raise BaseMismatch("these models are not of one base:\n" + table(rows))


def check_shapes(models: Sequence[Source], home: Source, may_grow: bool) -> None:
    """Refuse tensors that only some models have or whose shapes differ, with a table of the first of them.

    Tensors that exist in deltas alone are left to the plan. With `may_grow`, matrices with more rows than the
    vocabulary of `home` pass.
    """
    rows = []
    vocabulary = vocabulary_rows(config_of(home))
    for model in models:
        for name in sorted(model.names | home.names):
            if name not in model.names or name not in home.names:
                if name in home.names or not model.is_new(name):
                    has = name in model.names
                    rows.append((name, home.label, "missing" if has else "there", model.label, _here(has)))
                continue
            mine, theirs = home.shape(name), model.shape(name)
            grown = may_grow and mine[1:] == theirs[1:] and mine[:1] == (vocabulary,) and theirs[0] > mine[0]
            if mine != theirs and not grown:
                rows.append((name, home.label, list(mine), model.label, list(theirs)))
    if rows:
        hint = ""
        if any(isinstance(row[2], list) and row[2][:1] == [vocabulary] and row[4][0] > row[2][0] for row in rows):
            hint = "\nif these rows are added tokens, --allow-vocabulary-growth merges the others and keeps them"
        more = f"\n  and {len(rows) - 20} more" if len(rows) > 20 else ""
        raise BaseMismatch(f"the models' tensors do not fit together:\n{table(rows[:20])}{more}{hint}")


def vocabulary_owner(models: Sequence[Source], home: Source, may_grow: bool) -> Source:
    """The source whose tokenizer the result takes: `home`, or with `may_grow` the one with the most tokens.

    Raises `BaseMismatch` naming the first token whose id differs, and where tokens were added and may not be.
    """
    owner, largest = home, None
    for model in models:
        if not _tokenizer(model) or not _tokenizer(home) or _same_files(model, owner) or _same_files(model, home):
            continue
        largest = largest if largest is not None else _vocabulary(owner)
        theirs = _vocabulary(model)
        small, large = sorted((largest, theirs), key=len)
        if wrong := next((token for token, i in small.items() if large.get(token) != i), None):
            raise BaseMismatch(
                f"{model.label}: the token {wrong!r} has the id {theirs.get(wrong)}, in {owner.label} it has "
                f"{largest.get(wrong)}; models with other vocabularies cannot be merged"
            )
        if len(theirs) != len(largest) and not may_grow:
            raise BaseMismatch(
                f"{model.label} has {len(theirs):,} tokens, {owner.label} {len(largest):,}; the tokens of both have "
                "the same ids, so that --allow-vocabulary-growth can merge them and keep the added ones"
            )
        if len(theirs) > len(largest):
            owner, largest = model, theirs
    return owner


def table(rows: Sequence[tuple[Any, ...]]) -> str:
    """Rows (what, one model, its value, the other model, its value) as text."""
    return "\n".join(
        f"  {what}: {found} in {model}, {expected} in {home}" for what, home, expected, model, found in rows
    )


def _vocabulary(source: Source) -> dict[str, int]:
    from pairtune.pair import hub

    assert source.folder is not None
    return hub.load_tokenizer(source.folder).get_vocab()


def _tokenizer(source: Source) -> list[Path]:
    return [path for name in _TOKENIZERS if source.folder is not None and (path := source.folder / name).is_file()]


def _same_files(one: Source, other: Source) -> bool:
    """Whether both have the very same tokenizer files; then nothing has to be loaded to compare them."""
    mine, theirs = _tokenizer(one), _tokenizer(other)
    return [path.name for path in mine] == [path.name for path in theirs] and all(
        a.samefile(b) or a.read_bytes() == b.read_bytes() for a, b in zip(mine, theirs, strict=True)
    )


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _here(has: bool) -> str:
    return "there" if has else "missing"
