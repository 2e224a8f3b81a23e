"""Several processes share a run: the same losses as one process, before and after a change of their number."""

import json
import os
import socket

import pytest

from pairtune.constraints.l2sp import L2SP
from pairtune.training import resume

from .runs import dense, losses, rows, trainer_of

# 11 rows, 4 a step: the last step of an epoch has 3 rows, so that one of two processes gets a ghost.
SETTINGS = {"batch_size": 1, "accumulation": 4, "max_steps": 6, "save_every": 1, "log_every": 1, "lr": 1e-3}


def run(folder, processes, base, checkpoint=None):
    """Train in forked processes joined by gloo; the first one writes its losses. Returns them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = [in_process(rank, processes, port, folder, base, checkpoint) for rank in range(processes)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes == [0] * processes
    return json.loads((folder / "losses.json").read_text())


def in_process(rank, processes, port, folder, base, checkpoint):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
        if processes > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
        loop = resume.check(checkpoint, {}, False) if checkpoint else None
        pair = dense(base, dropout=0.0)
        trainer = trainer_of(
            pair, folder, rows(11), resumed=loop, constraints={"l2sp": L2SP(weight=0.5)}, validation=rows(3, seed=2),
            eval_every=2, **SETTINGS,
        )  # fmt: skip
        assert trainer.args.world_size == processes
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if rank == 0:
            lines = [line for line in trainer.state.log_history if "eval_loss" in line or "loss" in line]
            (folder / "losses.json").write_text(json.dumps([losses(trainer), lines]))
        code = 0
    finally:
        os._exit(code)


def test_one_and_two_processes_agree_and_continue_each_other(tiny_bert, tmp_path):
    folders = {name: tmp_path / name for name in ("one", "two", "two_then_one", "one_then_two")}
    for folder in folders.values():
        folder.mkdir()
    one, one_lines = run(folders["one"], 1, tiny_bert)
    two, two_lines = run(folders["two"], 2, tiny_bert)
    assert len(one) == len(two) == 6
    close = {"abs": 1e-6}
    for mine, theirs in zip(two_lines, one_lines, strict=True):
        for key in ("loss", "accuracy", "penalty_l2sp", "eval_loss", "eval_accuracy"):
            assert mine.get(key) == pytest.approx(theirs.get(key), **close), (key, mine)
    for first, then, processes in (("two", "two_then_one", 1), ("one", "one_then_two", 2)):
        checkpoint = folders[first] / "checkpoint-2"
        continued, _ = run(folders[then], processes, tiny_bert, checkpoint)
        assert len(continued) == 6
        for mine, theirs in zip(continued, one, strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], **close)
    # One process writes: each checkpoint is there once, whole, and holds both processes' generators.
    from pairtune.pair.files import open_safetensors

    names = open_safetensors(folders["two"] / "checkpoint-6" / "random.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"0", "1"}
    assert not [path for path in folders["two"].iterdir() if path.name.startswith(".")]
