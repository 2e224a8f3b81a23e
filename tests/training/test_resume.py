"""A run that is cut off anywhere and continued is the run that was not cut off, bit for bit."""

import shutil

import pytest
import torch

from pairtune.errors import FormatError, ResumeMismatch
from pairtune.training import resume

from .runs import dense, losses, optimizer_state, rows, trainer_of, weights

# 21 rows, 2 a batch, 3 batches a step: 4 steps an epoch, the last one smaller; 12 steps are 3 epochs.
SETTINGS = {"batch_size": 2, "accumulation": 3, "max_steps": 12, "save_every": 1, "log_every": 5}
IDENTITY = {"data": {"train": "aa"}, "training": {"lr": 0.01}, "versions": {"pairtune": "1"}}


@pytest.fixture(scope="module")
def whole(tiny_bert, tmp_path_factory):
    """The uninterrupted run, with a checkpoint after each step."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = trainer_of(dense(tiny_bert, dropout=0.3), folder, rows(21), identity=IDENTITY, **SETTINGS)
    trainer.train()
    return folder, trainer


def continued(tiny_bert, checkpoint, folder, allow_drift=False, identity=IDENTITY):
    loop = resume.check(checkpoint, identity, allow_drift)
    pair = dense(tiny_bert, dropout=0.3)
    trainer = trainer_of(pair, folder, rows(21), identity=identity, resumed=loop, **SETTINGS)
    torch.rand(3)  # whatever was drawn since the start must not matter
    trainer.train(resume_from_checkpoint=str(checkpoint))
    return trainer


@pytest.mark.parametrize("step", range(1, 12))
def test_resume_at_every_step_gives_the_same_bits(tiny_bert, whole, tmp_path, step):
    folder, uninterrupted = whole
    trainer = continued(tiny_bert, folder / f"checkpoint-{step}", tmp_path)
    assert trainer.state.global_step == 12
    assert losses(trainer) == losses(uninterrupted)
    assert [line["step"] for line in losses(trainer)] == [1, 5, 10]
    for name, tensor in weights(uninterrupted.pair).items():
        assert torch.equal(tensor, weights(trainer.pair)[name]), name
    for mine, theirs in zip(optimizer_state(trainer), optimizer_state(uninterrupted), strict=True):
        assert torch.equal(mine, theirs)


def test_without_the_random_state_it_is_refused_or_drifts_loudly(tiny_bert, whole, tmp_path, caplog):
    folder, uninterrupted = whole
    checkpoint = tmp_path / "checkpoint-5"
    shutil.copytree(folder / "checkpoint-5", checkpoint)
    (checkpoint / "random.safetensors").unlink()
    with pytest.raises(ResumeMismatch, match="random state is missing"):
        resume.check(checkpoint, IDENTITY, allow_drift=False)
    with caplog.at_level("WARNING", logger="pairtune"):
        trainer = continued(tiny_bert, checkpoint, tmp_path / "more", allow_drift=True)
    assert "DRIFT at checkpoint-5" in caplog.text
    differs = [n for n, t in weights(uninterrupted.pair).items() if not torch.equal(t, weights(trainer.pair)[n])]
    assert differs  # negative control: the test above could fail
    assert "random state is missing" in resume.check(tmp_path / "more" / "checkpoint-12", IDENTITY, False)["drift"][0]


def test_another_run_is_refused_with_all_differences(whole):
    folder, _ = whole
    other = {"data": {"train": "bb"}, "training": {"lr": 0.02}, "versions": {"pairtune": "2"}, "seed": 1}
    with pytest.raises(ResumeMismatch) as caught:
        resume.check(folder / "checkpoint-3", other, allow_drift=False)
    for line in ("data.train: aa → bb", "training.lr: 0.01 → 0.02", "versions.pairtune: 1 → 2", "seed: absent → 1"):
        assert line in str(caught.value)
    drift = resume.check(folder / "checkpoint-3", other, allow_drift=True)["drift"]
    assert len(drift) == 4


def test_a_flipped_byte_in_a_checkpoint_is_refused_by_name(whole, tmp_path):
    folder, _ = whole
    checkpoint = tmp_path / "checkpoint-7"
    shutil.copytree(folder / "checkpoint-7", checkpoint)
    path = checkpoint / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(FormatError, match=r"optimizer\.safetensors: tensor"):
        resume.check(checkpoint, IDENTITY, allow_drift=True)


def test_the_newest_complete_checkpoint_is_found_and_others_are_named(whole, tmp_path, caplog):
    folder, _ = whole
    for step in (2, 9, 10):
        shutil.copytree(folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-10" / "loop.json").unlink()
    with caplog.at_level("WARNING", logger="pairtune"):
        assert resume.find(tmp_path, True) == tmp_path / "checkpoint-9"
    assert "checkpoint-10 is not complete" in caplog.text


def test_a_checkpoint_holds_no_pickle_and_not_the_base(whole):
    folder, _ = whole
    names = {path.name for path in (folder / "checkpoint-12").iterdir()}
    assert names == {
        "COMPLETE",
        "delta.safetensors",
        "loop.json",
        "optimizer.safetensors",
        "random.safetensors",
        "trainer_state.json",
    }
