"""`scrub`: a first delta, the directions that it uses and should not, a second delta that is kept from using them.

<out>.scrub/  first/                    the first pair, tuned as asked
              half-1/, half-2/          pairs of either half of the rows, with seeds of their own; half-n-rows: the rows
              directions.safetensors    what was found, for the constraint grasp
              settings.json             what a call that goes on must share
              report.json               the report
<out>         the second pair

The halves have other seeds, since the first values of low-rank factors decide what they can read: equal ones would
agree by themselves. A stopped call goes on where it was.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pairtune import registry
from pairtune.constraints.directions import Directions, Layers
from pairtune.constraints.grasp import Grasp, Where
from pairtune.editing.scrub.halves import write_halves
from pairtune.editing.scrub.identify import MOST, Count, Side, alike, changed_weights
from pairtune.editing.scrub.looking import Looked, directions_of, look, refuse
from pairtune.editing.scrub.offtopic import GENERAL, OffTopic, read_texts
from pairtune.editing.scrub.report import Cost, Residual, ScrubReport
from pairtune.errors import BaseMismatch, ConfigError, InputError, ResumeMismatch
from pairtune.pair import hub
from pairtune.pair.card import CARD_FILE, Card
from pairtune.pair.disk import read_json, write_json
from pairtune.pair.lock import RunLock
from pairtune.pair.pair import Layer, Pair
from pairtune.pair.residual import stream_of
from pairtune.training.resume import differences
from pairtune.training.run import as_config, load_base, load_task, tune

if TYPE_CHECKING:
    from pairtune.pair.base import Base
    from pairtune.training.config import RunConfig

log = logging.getLogger("pairtune")
FILE, SETTINGS, REPORT = "directions.safetensors", "settings.json", "report.json"
NEEDED = {"both": ("write", "read"), "read": ("read",), "write": ("write",), "backprop": ("write",)}


def scrub(
    config: RunConfig | Mapping[str, Any] | str | Path,
    *,
    first: str | Path | None = None,
    where: Where = "both",
    k: Count = "gap",
    layers: Layers = "all",
    off_topic: str = GENERAL,
    restart: bool = False,
) -> tuple[Pair, ScrubReport]:
    """Tune, find what the delta leans on besides the task, and tune again without it (GRASP, experimental).

    Args:
        config: as for `tune`, with `out`.
        first: a pair that was tuned already, in place of the first one.
        where, layers: as in the constraint `grasp`. k: directions a side, 1 to 8, or "gap".
        off_topic: plain texts that have nothing to do with the task: a file, or `demo:general`.
        restart: remove what earlier calls left, and replace `out`.

    Raises `ConfigError` and `InputError` for what cannot be used, most of it before anything is tuned; `InputError`
    where one direction is nearly all of the first delta, which then is the task itself; `BaseMismatch` for a first pair
    on another base; `ResumeMismatch` where the results of another call stand there; and as `tune`.
    """
    config = as_config(config)
    _check(config, k)
    texts = read_texts(off_topic)
    out = Path(str(config.out))
    folder = out.with_name(f"{out.name}.scrub")
    with RunLock(folder):
        run = {name: value for name, value in config.model_dump(mode="json").items() if name not in ("out", "device")}
        settings = {"where": where, "k": k, "layers": layers, "off_topic": off_topic, "run": run}
        settings["first"] = None if first is None else str(first)
        if not restart:
            _refuse_others(folder, out, settings)
        task = load_task(config)
        base = load_base(config, task)
        if first is not None:
            _check_base(first, base)
        _check_tuner(base, config, where, layers)
        del base  # a run loads one of its own
        if restart:
            _clear(folder, out)
        folder.mkdir(parents=True, exist_ok=True)
        halves = write_halves(task, folder, config.seed)
        write_json(folder / SETTINGS, settings)
        bench = _Bench(config, folder)
        pair = bench.first(first)
        looked = look(pair, texts, k, layers, NEEDED[where])
        looked.directions.save(folder / FILE)
        del pair
        again = [directions_of(bench.half(i, data), k, layers) for i, data in enumerate(halves, 1)]
        pair = bench.second({"directions": str(folder / FILE), "where": where, "layers": layers})
        report = ScrubReport(
            str(out), where, layers, off_topic, len(texts), looked.reports(again),
            _residual(pair, looked, texts, NEEDED[where], k, layers), bench.cost,
        )  # fmt: skip
        write_json(folder / REPORT, report.to_dict())
    return pair, report


class _Bench:
    """The four runs; each is taken up where it was, or found finished."""

    def __init__(self, config: RunConfig, folder: Path):
        self._config, self._folder = config, folder
        self.cost = Cost({}, {}, {})

    def first(self, given: str | Path | None) -> Pair:
        """The first pair: tuned, or the one that is given."""
        if given is None:
            pair = self._tuned("first", "the first delta", 1, out=str(self._folder / "first"))
        else:
            pair = Pair.load(given, device=self._config.device)
            self.cost.steps["first"] = 0
        self.cost.first.update(_metrics(pair))
        return pair

    def half(self, number: int, data: dict[str, Any]) -> Pair:
        """The pair of one half of the rows."""
        own = {"out": str(self._folder / f"half-{number}"), "data": data, "seed": self._config.seed + number}
        return self._tuned(f"half {number}", f"half {number} of the rows", number + 1, **own)

    def second(self, held: dict[str, Any]) -> Pair:
        """The pair that is held."""
        pair = self._tuned("second", "the second delta, held", 4, constraint={**self._config.constraint, "grasp": held})
        self.cost.second.update(_metrics(pair))
        return pair

    def _tuned(self, name: str, title: str, number: int, **changes: Any) -> Pair:
        log.info("scrub, run %d of 4: %s", number, title)
        training = self._config.training
        if name != "second":
            training = training.model_copy(update={"push_to_hub": None})
        pair = tune(self._config.model_copy(update={"training": training, **changes}), resume=True)
        self.cost.steps[name] = int(pair.top.record.get("training", {}).get("steps", 0))
        return pair


def _residual(
    pair: Pair, looked: Looked, texts: list[str], needed: tuple[str, ...], k: Count, layers: Layers
) -> Residual:
    """What is left in the second delta, on the sides that both deltas have."""
    now = directions_of(pair, k, layers)
    same = [name for name in looked.sides if name in now]
    before = {name: looked.sides[name].directions for name in same}
    drift = OffTopic(pair, texts).drift(pair, looked.sides[needed[0]].directions)
    return Residual(
        {name: _along(now[name], before[name]) for name in same},
        {name: alike(before[name], now[name].directions) for name in same},
        looked.drift,
        drift,
    )


def _along(side: Side, directions: torch.Tensor) -> float:
    """Share of a side's energy along some directions [d, k], by its singular vectors and values."""
    return float((directions.double().T @ side.columns.to(directions.device)).square().sum()) / side.total**2


def _metrics(pair: Pair) -> dict[str, float]:
    """The deciding metrics on validation, as the run recorded them."""
    found = pair.top.record.get("training", {}).get("metrics", {})
    return {name.removeprefix("validation "): value for name, value in found.items()}


def _check(config: RunConfig, k: Count) -> None:
    """Refuse what cannot be scrubbed, before anything is read."""
    problems = []
    if config.out is None:
        problems.append("out: scrub needs a folder for the pair")
    if config.stages:
        problems.append("stages: scrub repeats a run of one stage; leave the recipe out")
    if config.start is not None:
        problems.append("start: a second delta that begins at the first one would begin with what is to be kept out")
    if "grasp" in config.constraint:
        problems.append("constraint.grasp: scrub sets it; --where and --layers say how")
    if k != "gap" and not 1 <= k <= MOST:
        problems.append(f"k: expected 1 to {MOST}, or gap (found {k})")
    if problems:
        raise ConfigError(problems, "scrub")


def _refuse_others(folder: Path, out: Path, settings: dict[str, Any]) -> None:
    """Raise where something stands that is not this call's."""
    if (folder / SETTINGS).exists():
        if found := differences(read_json(folder / SETTINGS), settings):
            listing = "\n".join(f"  - {line}" for line in found)
            raise ResumeMismatch(f"{folder} holds the runs of another call:\n{listing}\n--restart replaces them")
    elif out.exists():
        raise InputError(f"{out} exists already and was not made by scrub; choose another --out, or --restart")


def _clear(folder: Path, out: Path) -> None:
    """Remove what earlier calls left."""
    for left in (folder, out, out.with_name(f"{out.name}.run")):
        shutil.rmtree(left, ignore_errors=True)


def _check_base(first: str | Path, base: Base) -> None:
    """Raise where the first pair was not made on the base of the run."""
    folder = hub.local_folder(str(first))
    made_on = Card.load(folder).fingerprint if (folder / CARD_FILE).exists() else Pair.load(first).base.fingerprint
    if different := made_on.first_difference(base.fingerprint):
        raise BaseMismatch(f"{first} stands on another base than {base.source}: {different}")


def _check_tuner(base: Base, config: RunConfig, where: Where, layers: Layers) -> None:
    """Raise where the tuner's delta could not be looked at, or not be held, before it is tuned for nothing."""
    tuner = registry.build("tuners", config.tuner.name, config.tuner.settings)
    pair = Pair(base)
    installed = tuner.install(base, pair.model)
    record = {"tuner": {"name": config.tuner.name}}
    pair.push(Layer(installed, lambda: tuner.extract(installed), record))
    stream, delta = stream_of(base), pair.delta
    both = {"write": stream.writers, "read": stream.readers}
    lacking = [side for side in NEEDED[where] if not changed_weights(delta, both[side], base, layers)]
    if lacking:
        refuse({}, lacking)
    with tempfile.TemporaryDirectory() as place:
        file = f"{place}/{FILE}"
        Directions.of(torch.randn(base.hidden_size, 1, generator=torch.Generator().manual_seed(0))).save(file)
        trial = Grasp(directions=file, where=where, layers=layers)
        trial.prepare(pair)
        trial.finish(pair)
