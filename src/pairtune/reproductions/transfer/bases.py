"""Six bases made here: M1 to M5 of one pretraining run, M6 of another.

A language model with the zoo's tokenizer, from random weights: three parts of the run on stories and encyclopedia
(M1, M2, M3), two on instructions with some stories at a third of the learning rate (M4, M5), as a model's second stage
has it. M6 is the end of the same run from other random weights and in another order.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pairtune.pair.complete import is_complete
from pairtune.pair.disk import read_json, write_json
from pairtune.reproductions.likelihood import pretrained
from pairtune.reproductions.likelihood.sets import cut, drawn, texts_of
from pairtune.reproductions.sources import place, rows_of

STEP = 2048  # tokens of a step, as `pretrained.train` has it
RUN, ALONE = (1, 2, 3, 4, 5), 6
FIRST, RATE, LATER_RATE = 3, 3e-3, 1e-3  # parts of the first stage; learning rates of the two stages
OTHER = 1000  # what is added to a seed for the independent run


def bases(folder: Path, seed: int, settings: dict[str, Any]) -> dict[int, Path]:
    """Number of the base → its folder. What is there already is not made again.

    Args:
        folder: of the whole reproduction; the texts lie there, too.
    """
    own = folder / f"seed-{seed}"
    found = {number: own / f"base-{number}" for number in (*RUN, ALONE)}
    if not all(is_complete(path) for path in found.values()):
        texts = _texts(folder, settings)
        _made(texts, own / "run", seed, settings, {number: found[number] for number in RUN})
        _made(texts, own / "other", seed + OTHER, settings, {RUN[-1]: found[ALONE]})
    return found


def _made(texts: list[Path], work: Path, seed: int, settings: dict[str, Any], wanted: dict[int, Path]) -> None:
    """Pretrain once and keep the states after some parts: number of the part → where to."""
    if all(is_complete(path) for path in wanted.values()):
        return
    part = settings["part_steps"]
    shape = [*settings["shape"], "--seed", str(seed), "--keep-every", str(part * STEP)]
    stages = [work / "first", work / "second"]
    pretrained.train(texts[0], stages[0], FIRST * part * STEP, [*shape, "--lr", str(RATE)])
    if not stages[1].is_dir():
        _carry(stages[0] / _name(FIRST * part), stages[1], texts[1])
    pretrained.train(texts[1], stages[1], RUN[-1] * part * STEP, [*shape, "--lr", str(LATER_RATE)])
    for number, path in wanted.items():
        if not is_complete(path):
            pretrained.export(stages[number > FIRST] / _name(number * part), path)
    shutil.rmtree(work)


def _carry(checkpoint: Path, run: Path, corpus: Path) -> None:
    """Begin the second stage: the same weights and moments, on other texts from their first window on."""
    part = run.with_name(run.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(checkpoint, part / checkpoint.name)
    file = part / checkpoint.name / "state.json"
    about = {"corpus": read_json(corpus / "manifest.json")["checksum"], "windows": 0, "keep": True}
    write_json(file, read_json(file) | about)
    part.rename(run)


def _name(steps: int) -> str:
    return f"step-{steps:08d}"


def _texts(folder: Path, settings: dict[str, Any]) -> list[Path]:
    """The token files of both stages; a seed decides the order in which they are read."""
    found = [folder / "texts-1", folder / "texts-2"]
    if not is_complete(found[0]):
        wiki = gzip.decompress((place(settings, "wikitext2") / "valid.txt.gz").read_bytes()).decode()
        pretrained.write_corpus(found[0], drawn([*_some(_stories(settings), settings), *_some([wiki], settings)]))
    if not is_complete(found[1]):
        told = rows_of(settings, "instructions_small", "train")
        answers = ["\n".join(row[key] for key in ("instruction", "input", "output") if row[key]) for row in told]
        mix = [*_some(answers, settings), *_some(_stories(settings)[::-1], settings, 0.3)]
        pretrained.write_corpus(found[1], drawn(mix))
    return found


def _stories(settings: dict[str, Any]) -> list[str]:
    return texts_of(settings, "gutenberg_stories", "children_train")


def _some(texts: Iterable[str], settings: dict[str, Any], share: float = 1.0) -> list[str]:
    """Pieces of some texts, of `characters` together."""
    found, left = [], share * settings["characters"]
    for piece in drawn(piece for text in texts for piece in cut(text)):
        if left <= 0:
            break
        found.append(piece)
        left -= len(piece)
    return found
