"""what `make demo` runs: tune the shipped model on the shipped data, see what changed, score what it was made for"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairtune.cli import frame

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

BASE, DATA = "zoo:tiny-lm", "demo:helpdesk"
# A text is much longer than its label: with a smaller weight of the text, one delta learns to say the label and still
# has a likelihood of texts that means something.
OBJECTIVE = {"name": "lm", "text_weight": 0.3}
TRAINING = {"epochs": 5, "lr": 5e-4, "batch_size": 8, "patience": 2, "metric": "loss"}


def demo(
    out: Annotated[Path, typer.Option(help="The folder of the tuned pair.")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
) -> None:
    """Tune a small language model on help-desk requests, show what changed, and score what it was tuned for.

    Needs no network, no GPU and a few minutes on two cores.
    """
    from pairtune.analysis.evaluate import evaluate
    from pairtune.cli import score as scoring
    from pairtune.data.task import Task
    from pairtune.ood.scoring import separate
    from pairtune.training.run import tune

    start = time.monotonic()
    task = Task.load(DATA)
    _say(f"1  Tune: {BASE} on {DATA}, {len(task.labels)} intents, all weights")
    config = {"base": BASE, "data": DATA, "tuner": "full", "objective": OBJECTIVE, "training": TRAINING}
    pair = tune(config | {"seed": seed, "out": str(out)}, restart=True)
    _say("2  What changed in the weights (share of the base's norm, by layer)")
    frame.emit(None, False, text=moved(pair))
    _say("3  What changed in the answers: the same items under base and variant")
    found = evaluate(pair, task)
    frame.emit(None, False, text=found)
    _say("4  Which inputs was it tuned for? log p(base) − log p(variant); higher = further out")
    frame.emit(None, False, text=scoring.table(separate(pair, task)))
    frame.emit(None, False, text="(length is the control: below 0.5, the texts from outside are the shorter ones)")
    frame.emit(None, False, text="\n" + examples(pair, task))
    _say("Done")
    text = (
        f"The pair is in {out} ({_size(out)}), made in {(time.monotonic() - start) / 60:.1f} minutes. Next:\n\n"
        f"    pairtune doctor --pair {out}\n"
        f"    pairtune eval {out} --data {DATA}\n"
        f"    pairtune score {out} your-texts.jsonl\n"
        f"    pairtune export {out} --out merged"
    )
    frame.emit(None, False, text=text)


def _say(title: str) -> None:
    frame.emit(None, False, text=f"\n── {title} " + "─" * max(0, 100 - len(title)))


def moved(pair: Pair) -> str:
    """How far each layer moved, with a bar."""
    norms = pair.delta.norms().layers
    largest = max((norm.relative or 0.0) for norm in norms.values()) or 1.0
    rows = []
    for layer, norm in norms.items():
        share = norm.relative or 0.0
        rows.append((layer, f"{norm.absolute:.3f}", f"{share:.2%}", "█" * round(30 * share / largest)))
    return frame.columns(rows, head=("layer", "norm of the delta", "of the base", ""))


def examples(pair: Pair, task: Any, count: int = 4) -> str:
    """A few texts with their scores: the lowest, the middle and the highest of what the test and OOD splits hold."""
    from pairtune.ood.scoring import Scorer, texts_of

    scorer = Scorer(pair, ["log-ratio:token"])
    rows = []
    for name in ("test", *(split for split in task.splits if split.startswith("ood/"))):
        texts = texts_of(task, task.split(name))
        texts = texts[:: max(1, len(texts) // count)][:count]
        for text, one in zip(texts, scorer.stream(texts), strict=True):
            rows.append((one.scores["log-ratio:token"], name, text if len(text) <= 74 else text[:73] + "…"))
    rows.sort()
    return frame.columns([(f"{s:+.2f}", name, text) for s, name, text in rows], head=("score/token", "from", "text"))


def _size(folder: Path) -> str:
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{total / 1e6:.1f} MB"
