"""Processes that are killed, stopped, or that want the same folder."""

import os
import random
import signal
import time

import pytest
import torch

from pairtune.errors import RunLocked
from pairtune.pair.lock import RunLock
from pairtune.pair.staging import recover
from pairtune.training import resume
from pairtune.training.callbacks import StopOnSignal
from pairtune.training.signals import Signals, Stopped

from .runs import dense, losses, rows, trainer_of, weights

SETTINGS = {"batch_size": 2, "accumulation": 2, "max_steps": 400, "save_every": 1, "log_every": 3, "keep": 2}


def in_child(work):
    """Fork; the child runs `work` and leaves with what it returns. Everything is imported already."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        code = work()
    finally:
        os._exit(code)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the child did not get so far"
        time.sleep(0.01)


def kill_while_saving(tiny_bert, folder, kills, seed):
    """SIGKILL at random instants of a run that saves at every step, each time continued from what is there."""
    chance, saved = random.Random(seed), -1
    for _ in range(kills):
        before = saved

        def work():
            recover(folder)
            found = resume.find(folder, True)
            loop = resume.check(found, {}, False) if found else None
            trainer = trainer_of(dense(tiny_bert), folder, rows(21), resumed=loop, **SETTINGS)
            trainer.train(resume_from_checkpoint=str(found) if found else None)
            return 0

        pid = in_child(work)
        wait_for(lambda before=before: newest_step(folder) > before)
        time.sleep(chance.uniform(0, 0.05))  # a save takes a few milliseconds, and there is one at every step
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        found = resume.find(folder, True)
        assert found is not None
        saved = resume.step_of(found)
        assert saved > before
        resume.check(found, {}, allow_drift=False)  # every hash of it is right
    recover(folder)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    return saved


def newest_step(folder):
    found = resume.newest_complete(folder, "checkpoint-*")
    return resume.step_of(found) if found else -1


def test_a_kill_during_saving_leaves_the_newest_complete_checkpoint(tiny_bert, tmp_path):
    saved = kill_while_saving(tiny_bert, tmp_path, kills=3, seed=1)
    settings = {**SETTINGS, "keep": 99}
    whole = trainer_of(dense(tiny_bert), tmp_path / "whole", rows(21), **settings)
    whole.args.max_steps = 400
    stop_after(whole, saved)
    whole.train()
    assert whole.state.global_step == saved
    continued = dense(tiny_bert)
    trainer = trainer_of(continued, tmp_path, rows(21), **SETTINGS)
    from pairtune.training import checkpoint

    checkpoint.load_delta(trainer, tmp_path / f"checkpoint-{saved}")
    assert all(torch.equal(t, weights(continued)[n]) for n, t in weights(whole.pair).items())


@pytest.mark.soak
def test_fifty_kills_during_saving(tiny_bert, tmp_path):
    kill_while_saving(tiny_bert, tmp_path, kills=50, seed=2)


def stop_after(trainer, step):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step >= step
            return control

    trainer.add_callback(Stop())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_gives_one_last_checkpoint_and_its_exit_code_and_resumes(tiny_bert, tmp_path, number, code):
    settings = {**SETTINGS, "save_every": 1000, "max_steps": 300}

    def work():
        trainer = trainer_of(dense(tiny_bert), tmp_path, rows(21), **settings)
        with Signals() as signals:
            trainer.add_callback(StopOnSignal(signals))
            (tmp_path / "ready").touch()
            trainer.train()
        assert signals.received is not None
        return Stopped("stopped", signals.received).exit_code

    pid = in_child(work)
    wait_for((tmp_path / "ready").exists)
    time.sleep(0.3)
    os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == code
    (found,) = tmp_path.glob("checkpoint-*")
    step = resume.step_of(found)
    assert 0 < step < 300
    # Continued for a few steps, it is the run that was not stopped.
    loop = resume.check(found, {}, False)
    again = trainer_of(dense(tiny_bert), tmp_path / "again", rows(21), resumed=loop, **settings)
    stop_after(again, step + 4)
    again.train(resume_from_checkpoint=str(found))
    whole = trainer_of(dense(tiny_bert), tmp_path / "whole", rows(21), **settings)
    stop_after(whole, step + 4)
    whole.train()
    assert losses(again) == losses(whole)
    assert all(torch.equal(t, weights(again.pair)[n]) for n, t in weights(whole.pair).items())


def test_two_runs_cannot_share_a_folder_and_a_dead_ones_lock_is_free(tmp_path):
    def work():
        with RunLock(tmp_path):
            (tmp_path / "held").touch()
            time.sleep(60)
        return 0

    pid = in_child(work)
    wait_for((tmp_path / "held").exists)
    with pytest.raises(RunLocked, match=f"process {pid}"), RunLock(tmp_path):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with RunLock(tmp_path):
        pass


def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(tiny_bert, tmp_path):
    def work():
        import resource

        from transformers import TrainerCallback

        from pairtune.errors import DiskFull

        class Full(TrainerCallback):
            """From step 3 on no file may be larger than 20 kB: the delta takes 40."""

            def on_step_end(self, args, state, control, **_):
                if state.global_step == 3:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

        trainer = trainer_of(dense(tiny_bert), tmp_path, rows(21), **SETTINGS)
        trainer.add_callback(Full())
        try:
            trainer.train()
        except DiskFull as error:
            (tmp_path / "message").write_text(str(error))
            return 7
        return 0

    pid = in_child(work)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert "bytes are needed" in (tmp_path / "message").read_text()
    found = resume.find(tmp_path, True)
    assert found == tmp_path / "checkpoint-2"
    resume.check(found, {}, allow_drift=False)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1", "checkpoint-2", "message"}
