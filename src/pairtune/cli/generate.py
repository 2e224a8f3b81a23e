"""write behind prompts with a pair or a base: greedily, drawn, by beam search, with steering vectors"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from pairtune.errors import InputError


def generate(
    what: Annotated[str, typer.Argument(metavar="PAIR_OR_BASE", help="A folder, hub id or zoo name.")],
    inputs: Annotated[Path | None, typer.Argument(help="A file of prompts (JSONL, CSV, ...).")] = None,
    prompt: Annotated[str | None, typer.Option(help="One prompt in place of a file; its text is streamed.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="The prompts' column(s) in the file.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Read prompts as they are: no chat template, no separator behind them.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens that are written.")] = 128,
    temperature: Annotated[float, typer.Option(help="0: the likeliest token; above 0, one is drawn.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Draw among the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among the likeliest that have this probability.")] = None,
    beams: Annotated[int, typer.Option(help="Beams of a beam search.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="A text at which writing stops; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Decides what is drawn, prompt by prompt.")] = 0,
    steer: Annotated[
        list[str] | None, typer.Option(metavar="FILE[:STRENGTH]", help="Steering vectors; may be repeated.")
    ] = None,
    steer_all: Annotated[bool, typer.Option("--steer-all", help="Steer at the prompt's positions, too.")] = False,
    clean: Annotated[
        bool, typer.Option("--clean", help="Leave out sentences that point against the one vector (REFLEX).")
    ] = False,
    alpha: Annotated[
        float | None, typer.Option(help="base + alpha * delta in place of the variant; 0 is the base.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write JSONL here; a stopped run goes on where it was.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="With --out: forget a run that was stopped.")] = False,
    base: Annotated[str | None, typer.Option(help="The base, where the pair does not name it.")] = None,
    onto: Annotated[
        bool, typer.Option("--onto", help="Take a delta or vectors that were made on another base.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; by default the accelerator.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout (JSONL for a file).")] = False,
) -> None:
    """Write behind prompts. A pair writes as its variant; a base's own name, or --alpha 0, is the base.

    Prompts are laid out as the pair was tuned on them, else by the tokenizer's chat template where there is one. A
    column of conversations (messages with role and content) works as well. The same seed and prompt give the same text,
    whatever else is in the file and however it is batched.

    Steering vectors are files of `pairtune steer`, or control vectors of other tools (safetensors or GGUF with tensors
    direction.N); strength 1 adds them as they are.
    """
    if (inputs is None) == (prompt is None):
        raise InputError("give either a file of prompts or --prompt TEXT")
    if inputs is None and (out is not None or text):
        raise InputError("--out and --text go with a file of prompts")
    if restart and out is None:
        raise InputError("--restart goes with --out FILE")
    if inputs is not None and not inputs.exists():
        raise InputError(f"{inputs}: there is no such file")
    if clean and len(steer or []) != 1:
        raise InputError("--clean looks for what points against the vector; give one with --steer FILE")
    if alpha is not None and not math.isfinite(alpha):
        raise InputError(f"--alpha: expected a finite number, found {alpha}")
    if steer_all and not steer:
        raise InputError("--steer-all goes with --steer FILE")
    from pairtune.cli import _generated
    from pairtune.cli._pairs import opened
    from pairtune.generation.decoding import Decoding
    from pairtune.generation.vectors import SteeringVectors, parse

    decoding = Decoding.of(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, beams=beams,
        stop=tuple(stop or ()), seed=seed,
    )  # fmt: skip
    chosen = [parse(word) for word in steer or []]
    vectors = [SteeringVectors.load(path) for path, _ in chosen]
    pair = opened(what, base, onto, device)
    for one in vectors:
        one.check(pair.base, onto)
    vectors = [one.scaled(strength) for one, (_, strength) in zip(vectors, chosen, strict=True)]
    with _generated.side(pair, alpha):
        job = _generated.Job(pair, decoding, vectors, "all" if steer_all else "generated", raw, clean)
        if prompt is not None:
            _generated.one(job, prompt, json)
            return
        assert inputs is not None
        wanted = _generated.Wanted(inputs, text, out, restart, alpha, [f"{path}:{by:g}" for path, by in chosen], json)
        _generated.run(job, wanted)
