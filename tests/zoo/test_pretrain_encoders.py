"""Pretraining of the zoo's encoders: the sources' items, and that a stopped run goes on as if it had not been."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pairtune.zoo import lm_checkpoint

SMALL = ["--width", "24", "--layers", "1", "--heads", "2", "--batch", "8", "--log-seconds", "0"]


@pytest.fixture
def drawings(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "omniglot_small").mkdir()
    for i in (1, 2):
        x = (generator.random((60, 28, 28)) < 0.2).astype(np.uint8) * 255
        y = np.repeat(np.arange(3), 20).astype(np.int16)
        np.savez(tmp_path / "omniglot_small" / f"background_small{i}.npz", x=x, y=y)
    return tmp_path


def test_pictures_are_the_same_by_number_and_new_by_item(drawings):
    from pairtune.zoo.image_source import Pictures

    source = Pictures(drawings, seed=1)
    assert source.classes == 6 + 64 * 4
    x, y = source.batch(64, 64)
    again, _ = Pictures(drawings, seed=1).batch(64, 64)
    assert x.shape == (64, 32, 32, 3) and x.dtype == np.uint8 and np.array_equal(x, again)
    assert not np.array_equal(x, source.batch(128, 64)[0])
    assert 10 < (y < 6).sum() < 54 and y.max() < source.classes
    assert not np.array_equal(x, source.batch(64, 64, held=True)[0])


@pytest.mark.parametrize("stop", [24])
def test_a_stopped_run_goes_on_bit_for_bit(drawings, tmp_path, monkeypatch, stop):
    from pairtune.zoo import encoder_run, pretrain_vit

    fixed = ["--data", str(drawings), *SMALL]
    whole = pretrain_vit.main([*fixed, "--out", str(tmp_path / "a"), "--total-items", "64"])
    assert whole["items"] == 64
    plain = encoder_run.nn.utils.clip_grad_norm_
    seen = []

    def interrupted(*args, **keywords):
        seen.append(1)
        if len(seen) * 8 == stop:
            encoder_run.signal.raise_signal(encoder_run.signal.SIGINT)
        return plain(*args, **keywords)

    monkeypatch.setattr(encoder_run.nn.utils, "clip_grad_norm_", interrupted)
    part = pretrain_vit.main([*fixed, "--out", str(tmp_path / "b"), "--total-items", "64"])
    assert part["items"] == stop
    pretrain_vit.main([*fixed, "--out", str(tmp_path / "b"), "--total-items", "64"])
    ends = [lm_checkpoint.latest(tmp_path / name) for name in "ab"]
    weights = [load_file(end / "weights.safetensors") for end in ends if end is not None]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(SystemExit, match="another run: share differ"):
        pretrain_vit.main([*fixed, "--out", str(tmp_path / "b"), "--total-items", "64", "--keep", "0.9"])


@pytest.fixture
def recordings(tmp_path):
    import soundfile

    (tmp_path / "esc10").mkdir()
    for fold in range(1, 6):
        wave = np.random.default_rng(fold).normal(0, 0.1, 2 * 20000)
        soundfile.write(tmp_path / "esc10" / f"fold{fold}.flac", wave, 16000)
        rows = "start,length,label,clip\n0,20000,Rain,a\n20000,20000,Rooster,b\n"
        (tmp_path / "esc10" / f"fold{fold}.csv").write_text(rows)
    return tmp_path


def test_sounds_are_what_the_feature_extractor_makes_of_them(recordings):
    from transformers import ASTFeatureExtractor

    from pairtune.zoo.sound_source import BINS, FRAMES, SAMPLES, Sounds, log_mel

    source = Sounds(recordings, seed=0, looked_at=64)
    assert source.classes == 2 + 64 and source.names == ["Rain", "Rooster"]
    wave = np.random.default_rng(0).normal(0, 0.1, (2, SAMPLES)).astype(np.float32)
    extractor = ASTFeatureExtractor(num_mel_bins=BINS, max_length=FRAMES, mean=source.mean, std=source.std)
    peer = np.stack([extractor(one, sampling_rate=16000)["input_values"][0] for one in wave])
    assert np.abs((log_mel(wave, source._mel) - source.mean) / (2 * source.std) - peer).max() < 1e-5
    x, y = source.batch(64, 64)
    assert np.array_equal(x, Sounds(recordings, seed=0, looked_at=64).batch(64, 64)[0])
    assert x.shape == (64, FRAMES, BINS) and np.isfinite(x).all() and abs(x.mean()) < 0.3 and 0.3 < x.std() < 0.7
    assert 10 < (y < 2).sum() < 54


def test_a_few_steps_on_sounds(recordings, tmp_path, monkeypatch):
    from pairtune.zoo import pretrain_ast, sound_source

    monkeypatch.setattr(pretrain_ast, "Sounds", lambda data, seed: sound_source.Sounds(data, seed, looked_at=64))
    state = pretrain_ast.main(["--data", str(recordings), *SMALL, "--out", str(tmp_path / "a"), "--total-items", "32"])
    assert state["items"] == 32


def test_a_run_becomes_a_base(drawings, tmp_path):
    from pairtune.pair.base import Base
    from pairtune.zoo import export_encoder, pretrain_vit

    pretrain_vit.main(["--data", str(drawings), *SMALL, "--out", str(tmp_path / "run"), "--total-items", "16"])
    held = export_encoder.export("vit", drawings, tmp_path / "run", tmp_path / "tiny-vit", "today", "")
    base = Base.load(tmp_path / "tiny-vit", task="classification", labels=["a", "b"])
    assert base.new_names == {"classifier.weight", "classifier.bias"} and base.tokenizer.positions == 65
    text = (tmp_path / "tiny-vit" / "README.md").read_text()
    assert "16 items seen, 2 steps" in text and f"| characters | {held['characters']:.1%} |" in text
