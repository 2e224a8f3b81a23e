"""`pairtune tune --seeds` as people type it."""

import json

import pytest

from .test_tune import call, data  # noqa: F401


@pytest.fixture
def words(tiny_bert, data, tmp_path):  # noqa: F811
    flags = ["--tuner", "head", "--training.max_steps", 12, "--training.lr", "0.05", "--device", "cpu"]
    return ["tune", "--base", tiny_bert, "--data", data, *flags, "--out", tmp_path / "out"]


def test_seeds_print_a_table_and_json(words, tmp_path, capsys):
    assert call(*words, "--seeds", 3, "--seed", 7, "--json") == 0
    streams = capsys.readouterr()
    report = json.loads(streams.out)
    found = report["seeds"]
    assert [run["seed"] for run in found["runs"]] == [7, 8, 9]
    assert found["expected_best"]["1"] == pytest.approx(found["mean"])
    assert json.loads((tmp_path / "out.seeds" / "stability.json").read_text()) == found
    assert report["metrics"] == next(run["metrics"] for run in found["runs"] if run["seed"] == found["best"])
    assert (tmp_path / "out" / "pair.json").exists()
    assert call(*words, "--seeds", 3, "--seed", 7) == 0  # all done: read again
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines() if line[:1].isdigit()] == ["7", "8", "9"]
    for part in ("failed", "without text", "mean", "standard deviation", "expected best of n", "the best, kept"):
        assert part in text
    assert f"{found['mean']:.4g}" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "1"], "expected 2 or more, found 1"),
        (["--seeds", "3", "--sweep"], "--sweep and --seeds exclude one another"),
        (["--seeds", "3", "--rates", "1e-3"], "--sweep and --seeds exclude one another"),
        (["--seeds", "3", "--resume"], "leave --resume out"),
        (["--seeds", "3", "--allow-drift"], "leave --allow-drift out"),
        (["--sweep", "--resume"], "leave --resume out"),
        (["--sweep", "--restart"], "choose another --out"),
        (["--seeds", "many"], "'--seeds': Input should be a valid integer"),
    ],
)
def test_flags_that_do_not_go_together(words, flags, message, capsys):
    assert call(*words, *flags) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
