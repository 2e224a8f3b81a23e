"""`pairtune tune` as people type it."""

import json
import os
import signal
import sys
import time

import pytest

from pairtune.cli.main import run
from pairtune.pair.complete import newest_complete


@pytest.fixture
def data(tmp_path):
    rows = [("open the account please", "house"), ("the printer is old", "river"), ("a good dog ran", "house")] * 9
    path = tmp_path / "intents.csv"
    path.write_text("text,label\n" + "".join(f"{text} {i % 10},{label}\n" for i, (text, label) in enumerate(rows)))
    return path


def call(*words):
    """The exit code of a command line."""
    with pytest.raises(SystemExit) as left:
        run([str(word) for word in words])
    return left.value.code


def test_flags_make_a_pair_and_json_on_stdout_alone(tiny_bert, data, tmp_path, capsys):
    code = call(
        "tune", "--base", tiny_bert, "--data", data, "--tuner", "lora", "--tuner.r", 2,
        "--constraint.l2sp.weight", "1e-3",
        "--training.max_steps", 4, "--training.batch_size=4", "--device", "cpu", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    streams = capsys.readouterr()
    assert code == 0, streams.err
    report = json.loads(streams.out)
    assert report["steps"] == 4
    assert report["preflight"]["trainable"] < report["preflight"]["parameters"]
    card = json.loads((tmp_path / "out" / "pair.json").read_text())
    assert card["stack"][0]["tuner"] == {"name": "lora", "r": 2}
    assert card["stack"][0]["constraints"] == {"l2sp": {"weight": 0.001}}
    assert "trainable" in streams.err


def test_a_run_file_with_flags_laid_over_it(tiny_bert, data, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(
        f"base: {tiny_bert}\ndata: {data}\ndevice: cpu\ntuner: full\nout: {tmp_path / 'out'}\n"
        "training: {max_steps: 9, batch_size: 4}\n"
    )
    assert call("tune", path, "--training.max_steps", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2


def test_faults_are_told_together_with_exit_code_2(tiny_bert, data, capsys):
    code = call(
        "tune", "--base", tiny_bert, "--data", data, "--tuner", "lora", "--tuner.rnak", 2,
        "--constraint.l2spp.weight", 1,
        "--training.batchsize", 4,
    )  # fmt: skip
    err = capsys.readouterr().err
    assert code == 2
    for part in (
        "--tuner.rnak",
        "no such setting",
        "l2spp",
        "did you mean batch_size?",
    ):
        assert part in err, err
    assert "Traceback" not in err
    assert call("tune", "--base", tiny_bert, "--data", data, "--training.lr", "0", "--seed", "-1") == 2
    err = capsys.readouterr().err
    assert "training.lr" in err
    assert "seed" in err


def test_sweep_keeps_the_best_rate_on_validation(tiny_bert, data, tmp_path, capsys):
    words = [
        "tune",
        "--base",
        tiny_bert,
        "--data",
        data,
        "--tuner",
        "head",
        "--training.max_steps",
        6,
        "--device",
        "cpu",
    ]
    out = tmp_path / "out"
    assert call(*words, "--training.metric", "loss", "--out", out, "--sweep", "--rates", "1e-6,1e-1", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    points = {point["lr"]: point["metrics"]["validation loss"] for point in report["sweep"]["points"]}
    assert set(points) == {1e-6, 1e-1}
    assert report["sweep"]["best"] == min(points, key=lambda lr: points[lr]) == report["lr"]
    assert report["metrics"]["validation loss"] == min(points.values())
    assert (out / "pair.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"intents.csv", "out", "out.run"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_with_its_code_and_resume_finishes_it(
    tiny_bert, data, tmp_path, number, code, capsys
):
    words = [
        "tune",
        "--base",
        tiny_bert,
        "--data",
        data,
        "--tuner",
        "full",
        "--training.max_steps",
        200,
        "--device",
        "cpu",
    ]
    words = [str(word) for word in [*words, "--out", tmp_path / "out", "--training.save_every", 20]]
    log = tmp_path / "log"
    pid = os.fork()
    if not pid:
        try:
            sys.stderr = log.open("w", buffering=1)
            run(words)
        except SystemExit as left:
            os._exit(left.code)
        finally:
            os._exit(99)
    work = tmp_path / "out.run"
    end = time.monotonic() + 60
    while newest_complete(work, "checkpoint-*") is None:
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.01)
    os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == code, log.read_text()
    assert "--resume continues" in log.read_text()
    assert not (tmp_path / "out").exists()
    assert call(*words) == 2  # neither --resume nor --restart
    assert "unfinished run" in capsys.readouterr().err
    assert call(*words, "--resume") == 0
    assert (tmp_path / "out" / "pair.json").exists()


def test_two_runs_into_one_folder(tiny_bert, data, tmp_path, capsys):
    from pairtune.pair.lock import RunLock

    with RunLock(tmp_path / "out.run"):
        code = call("tune", "--base", tiny_bert, "--data", data, "--device", "cpu", "--out", tmp_path / "out")
    assert code == 2
    assert "in use by another run" in capsys.readouterr().err


def test_columns_are_overridden_by_flags(tiny_bert, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    path.write_text("note,body,topic\n" + "".join(f"a much longer note {i},cat {i},{'ab'[i % 2]}\n" for i in range(40)))
    words = ["tune", "--base", tiny_bert, "--data", path, "--training.max_steps", 4, "--out", tmp_path / "out"]
    assert call(*words, "--data.text", "body", "--data.label", "topic", "--json") == 0
    card = json.loads((tmp_path / "out" / "pair.json").read_text())
    assert (card["task"]["text"], card["task"]["label"]) == (["body"], "topic")
    capsys.readouterr()
    assert call(*words, "--data.txt", "body") == 2
    assert "did you mean text?" in capsys.readouterr().err
