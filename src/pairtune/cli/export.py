"""a merged checkpoint or a PEFT folder; outputs compared before anything is kept"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pairtune.cli import frame
from pairtune.errors import InputError


def export(
    pair: Annotated[str, typer.Argument(help="A pair's folder, a PEFT folder, or a fine-tuned checkpoint.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist yet.")],
    to: Annotated[Literal["merged", "peft"], typer.Option(help="A full checkpoint, or a PEFT adapter.")] = "merged",
    base: Annotated[str | None, typer.Option(help="The base, where the pair does not name it.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Type of a checkpoint's tensors.", show_default="the base's"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Write a pair as a checkpoint that transformers loads, or as an adapter that PEFT loads.

    The merged checkpoint is loaded again and must answer as the pair does, or nothing is kept.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; choose another name")
    from pairtune.pair.export import export_adapter, export_merged
    from pairtune.pair.pair import Pair

    if dtype is not None and to == "peft":
        raise InputError("--dtype: is for a checkpoint; an adapter keeps its own")
    loaded = Pair.load(pair, base)
    if to == "peft":
        result = export_adapter(loaded, out)
    else:
        import torch

        result = export_merged(loaded, out, None if dtype is None else getattr(torch, dtype))
    frame.emit(result, json, text=frame.columns(list(result.items())))
