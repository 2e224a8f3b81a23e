"""Several seeds of one configuration: each is the single run of that seed, stops lose nothing, the best is kept."""

import json
import os
import signal

import pytest
import torch

from pairtune.errors import ConfigError, InputError, NonFiniteError, ResumeMismatch
from pairtune.pair.pair import Pair
from pairtune.training import several
from pairtune.training.run import tune
from pairtune.training.seeds import tune_seeds
from pairtune.training.signals import Stopped


@pytest.fixture
def data(tmp_path):
    words = [("open the account please", "house"), ("the printer is old", "river"), ("a good dog ran", "house")] * 12
    path = tmp_path / "intents.csv"
    path.write_text("text,label\n" + "".join(f"{text} {i % 10},{label}\n" for i, (text, label) in enumerate(words)))
    return path


@pytest.fixture
def config(tiny_bert, data, tmp_path):
    training = {"max_steps": 12, "batch_size": 4, "lr": 0.01, "eval_every": 4, "log_every": 4}
    return {
        "base": str(tiny_bert), "data": str(data), "device": "cpu", "tuner": "full", "seed": 3, "training": training,
        "out": str(tmp_path / "out"),
    }  # fmt: skip


def state(pair):
    return {name: tensor.clone() for name, tensor in pair.top.installed.state().items()}


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_each_seed_is_its_single_run_and_the_best_on_validation_is_copied(config, tmp_path):
    pair, found = tune_seeds(config, 3)
    seeds = tmp_path / "out.seeds"
    assert [run.seed for run in found.runs] == [3, 4, 5]
    for run in found.runs:
        single = tune({**config, "seed": run.seed, "out": None})
        kept = Pair.load(seeds / f"seed-{run.seed}")
        assert same(state(single), state(kept))
        metrics = single.top.record["training"]["metrics"]
        assert run.metrics == metrics
        assert run.value == metrics[f"validation {found.metric}"]
        assert run.losses[0] > run.losses[1] > 0
    assert found.best == max(found.runs, key=lambda run: run.value).seed
    assert same(state(pair), state(Pair.load(seeds / f"seed-{found.best}")))
    assert same(state(pair), state(Pair.load(tmp_path / "out")))
    assert json.loads((tmp_path / "out" / "pair.json").read_text())["seed"] == found.best
    stored = json.loads((seeds / "stability.json").read_text())
    assert stored["mean"] == found.mean
    assert stored["asked"] == len(stored["runs"]) == 3
    assert {path.name for path in seeds.iterdir()} == {"seed-3", "seed-4", "seed-5", "stability.json"}
    assert found.baseline is not None


def test_finished_seeds_are_kept_and_more_are_added(config, tmp_path):
    _, before = tune_seeds(config, 2)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.seeds").glob("seed-*/delta.safetensors")}
    assert len(files) == 2
    _, after = tune_seeds(config, 3)
    assert after.runs[:2] == before.runs
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())
    with pytest.raises(ResumeMismatch, match=r"lr: 0\.01 → 0\.02"):
        tune_seeds({**config, "training": {**config["training"], "lr": 0.02}}, 2)
    _, other = tune_seeds({**config, "training": {**config["training"], "lr": 0.02}}, 2, restart=True)
    assert other.runs[0].metrics != before.runs[0].metrics
    assert not (tmp_path / "out.seeds" / "seed-5").exists()


def test_a_stop_keeps_what_is_done_and_the_same_call_goes_on(config, tmp_path):
    from transformers import TrainerCallback

    from pairtune.training import stage

    whole_pair, whole = tune_seeds({**config, "out": str(tmp_path / "whole")}, 3)

    class Interrupt(TrainerCallback):
        """Ctrl-C at step 6 of the second seed."""

        def on_step_end(self, args, state, control, **_):
            if state.global_step == 6 and args.seed == 4:
                os.kill(os.getpid(), signal.SIGINT)

    plain = stage.Progress
    try:
        stage.Progress = lambda title: Interrupt()
        with pytest.raises(Stopped, match=r"seed 4, 1 of 3 done; the same command goes on") as stopped:
            tune_seeds(config, 3)
    finally:
        stage.Progress = plain
    assert stopped.value.exit_code == 130
    assert not (tmp_path / "out").exists()
    report = json.loads((tmp_path / "out.seeds" / "stability.json").read_text())
    assert (len(report["runs"]), report["asked"]) == (1, 3)
    assert [path.name for path in (tmp_path / "out.seeds").glob("seed-4.run/checkpoint-*")]
    pair, found = tune_seeds(config, 3)
    assert found.to_dict() == whole.to_dict()
    assert same(state(pair), state(whole_pair))


def test_a_seed_that_meets_nan_is_counted_and_all_of_them_are_an_error(config, monkeypatch):
    real = several.tune

    def broken(wanted, **keywords):
        if wanted.seed in bad:
            raise NonFiniteError("step 2: the loss became nan")
        return real(wanted, **keywords)

    monkeypatch.setattr(several, "tune", broken)
    bad = {3}
    _, found = tune_seeds(config, 3)
    assert (found.runs[0].value, len(found.runs), len(found.expected_best)) == (None, 3, 2)
    assert "nan" in found.runs[0].failed
    assert found.failed >= 1
    bad = {3, 4}
    with pytest.raises(NonFiniteError, match="every seed met NaN; seed 3"):
        tune_seeds(config, 2, restart=True)


def test_a_run_that_learns_nothing_has_failed(config):
    config["training"] |= {"lr": 1e-9, "metric": "loss"}
    _, found = tune_seeds(config, 2)
    assert found.failed == 2


def test_what_is_refused(config, tmp_path):
    with pytest.raises(ConfigError, match="need out"):
        tune_seeds({**config, "out": None}, 3)
    with pytest.raises(ConfigError, match="2 or more, found 1"):
        tune_seeds(config, 1)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="not made with --seeds"):
        tune_seeds(config, 2)
