"""Pretraining of the zoo's encoders: the sources' items, and that a stopped run goes on as if it had not been."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pairtune.zoo import lm_checkpoint

SMALL = ["--width", "24", "--layers", "1", "--heads", "2", "--batch", "8", "--log-seconds", "0"]


@pytest.fixture
def bank(tmp_path):
    """Eight classes, two of a kind, of five drawings each; of the one that is held out, nothing is to be seen."""
    folder = tmp_path / "bank"
    folder.mkdir()
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (40, 40, 40, 4), dtype=np.uint8)
    held = np.arange(40) % 5 == 4
    pictures[held, ..., 3] = 0
    np.save(folder / "pictures.npy", pictures)
    np.savez(folder / "index.npz", label=np.repeat(np.arange(8), 5), held=held, kind=np.repeat(np.arange(4), 2))
    kinds = {kind: {"classes": 2, "drawings": 10, "held": 2} for kind in ("emoji", "icons", "glyphs", "omniglot")}
    (folder / "about.json").write_text(json.dumps({"kinds": kinds, "sha256": "0"}))
    return folder


def test_pictures_are_the_same_by_number_and_new_by_item(bank):
    from pairtune.zoo.image_source import Pictures

    source = Pictures(bank, seed=1)
    x, y, clean = source.batch(64, 64)
    again, *_ = Pictures(bank, seed=1).batch(64, 64)
    assert x.shape == (64, 3, 32, 32) and clean.shape == (64, 1, 32, 32) and torch.equal(x, again)
    assert -1 <= x.min() < -0.5 and 0.5 < x.max() <= 1 and clean.min() >= 0 and clean.max() <= 1
    assert set(y) == set(range(8)) and not torch.equal(x, source.batch(128, 64)[0])
    figures = x[clean.amax((1, 2, 3)) > 0.05]
    grey = (figures.amax(1) == figures.amin(1)).all(-1).all(-1).float().mean()
    assert 0.25 < grey < 0.75


def test_held_drawings_are_other_drawings(bank):
    from pairtune.zoo.image_source import Pictures

    source = Pictures(bank, seed=0)
    assert source.batch(0, 64)[2].amax((1, 2, 3)).min() > 0
    assert source.batch(0, 64, held=True)[2].max() == 0


def test_aims_say_where_it_is_light_and_which_way_edges_run():
    from pairtune.zoo.encoder_aims import aims, count_of, edges

    upright = torch.zeros(1, 1, 32, 48)
    upright[..., 8:24, 10:14] = 1.0
    found = edges(upright)
    assert found.shape == (1, 8, 8, 12) and found.sum((0, 2, 3)).argmax() == 0
    lying = edges(upright.transpose(2, 3))
    assert lying.sum((0, 2, 3)).argmax() == 4
    whole = aims(upright)
    assert whole.shape == (1, count_of(32, 48))
    coarse = whole[0, : 16 * 24].reshape(16, 24) * 0.28 + 0.15
    assert coarse[4:12, 5:7].allclose(torch.ones(8, 2)) and coarse.sum().isclose(torch.tensor(16.0), atol=1e-3)


def test_a_class_is_named_among_those_of_its_kind(bank):
    from pairtune.zoo import encoder_run, pretrain_vit
    from pairtune.zoo.image_source import Pictures

    source = Pictures(bank, seed=0)
    args = encoder_run.parser("", width=24, layers=1, heads=2, patch=8).parse_args(["--out", "x"])
    model = pretrain_vit.build(args, source.kinds)
    x, y, _ = source.batch(0, 16)
    logits, told = model(x, torch.from_numpy(y))
    assert (logits.isfinite().sum(1) == 2).all() and logits.softmax(1)[range(16), y].min() > 0
    assert told.shape[1] == 16 * 16 + 8 * 8 * 8
    matrices, rest = (sum(len(g["params"]) for g in o.param_groups) for o in encoder_run.make_optimizers(model, args))
    assert matrices + rest == len(list(model.parameters())) and min(matrices, rest) > 5


@pytest.mark.parametrize("stop", [24])
def test_a_stopped_run_goes_on_bit_for_bit(bank, tmp_path, monkeypatch, stop):
    from pairtune.zoo import encoder_run, pretrain_vit

    fixed = ["--bank", str(bank), *SMALL, "--total-items", "64"]
    whole = pretrain_vit.main([*fixed, "--out", str(tmp_path / "a")])
    assert whole["items"] == 64
    plain = encoder_run.nn.utils.clip_grad_norm_
    seen = []

    def interrupted(*args, **keywords):
        seen.append(1)
        if len(seen) * 8 == stop:
            encoder_run.signal.raise_signal(encoder_run.signal.SIGINT)
        return plain(*args, **keywords)

    monkeypatch.setattr(encoder_run.nn.utils, "clip_grad_norm_", interrupted)
    part = pretrain_vit.main([*fixed, "--out", str(tmp_path / "b")])
    assert part["items"] == stop
    pretrain_vit.main([*fixed, "--out", str(tmp_path / "b")])
    ends = [lm_checkpoint.latest(tmp_path / name) for name in "ab"]
    weights = [load_file(end / "weights.safetensors") for end in ends if end is not None]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(SystemExit, match="another run: config differ"):
        pretrain_vit.main([*fixed, "--out", str(tmp_path / "b"), "--patch", "16"])


def test_sounds_are_what_the_feature_extractor_makes_of_them():
    from transformers import ASTFeatureExtractor

    from pairtune.zoo.sound_source import BINS, FRAMES, SAMPLES, Sounds, log_mel

    source = Sounds(seed=0, looked_at=64)
    wave = np.random.default_rng(0).normal(0, 0.1, (2, SAMPLES)).astype(np.float32)
    extractor = ASTFeatureExtractor(num_mel_bins=BINS, max_length=FRAMES, mean=source.mean, std=source.std)
    peer = np.stack([extractor(one, sampling_rate=16000)["input_values"][0] for one in wave])
    assert np.abs((log_mel(wave, source._mel) - source.mean) / (2 * source.std) - peer).max() < 1e-5


def test_sounds_are_the_same_by_number_and_of_every_kind():
    from pairtune.zoo.sound_source import BINS, FRAMES, Sounds

    source = Sounds(seed=0, looked_at=64)
    x, y, clean = source.batch(64, 64)
    assert torch.equal(x, Sounds(seed=0, looked_at=64).batch(64, 64)[0])
    assert x.shape == (64, FRAMES, BINS) and x.isfinite().all() and abs(x.mean()) < 0.3 and 0.3 < x.std() < 0.7
    assert clean.shape == (64, 1, FRAMES, BINS) and clean.min() == 0 and clean.amax((1, 2, 3)).allclose(torch.ones(64))
    assert set(source.kinds[y]) == {0, 1, 2} and y.max() < len(source.kinds) == 5 * 64 + 24 + 28
    assert not torch.equal(x, source.batch(64, 64, held=True)[0])


def test_a_few_steps_on_sounds(tmp_path, monkeypatch):
    from pairtune.zoo import pretrain_ast, sound_source

    monkeypatch.setattr(pretrain_ast, "Sounds", lambda seed: sound_source.Sounds(seed, looked_at=64))
    state = pretrain_ast.main([*SMALL, "--out", str(tmp_path / "a"), "--total-items", "32"])
    assert state["items"] == 32 and state["std"] > 0


def test_a_run_becomes_a_base(bank, tmp_path):
    from pairtune.pair.base import Base
    from pairtune.zoo import export_encoder, pretrain_vit

    pretrain_vit.main(["--bank", str(bank), *SMALL, "--out", str(tmp_path / "run"), "--total-items", "16"])
    held = export_encoder.export("vit", tmp_path / "run", tmp_path / "tiny-vit", bank, None, "python it", "today", "")
    base = Base.load(tmp_path / "tiny-vit", task="classification", labels=["a", "b"])
    assert base.new_names == {"classifier.weight", "classifier.bias"} and base.tokenizer.positions == 17
    text = (tmp_path / "tiny-vit" / "README.md").read_text()
    assert "16 items seen, 2 steps" in text and f"| glyphs | {held['glyphs']:.1%} |" in text
    assert "Twemoji" in text and "```\npython it\n```" in text and "## Probes" not in text


def test_a_base_that_no_probe_likes_is_refused(bank, tmp_path, monkeypatch):
    from pairtune.zoo import export_encoder, pretrain_vit

    pretrain_vit.main(["--bank", str(bank), *SMALL, "--out", str(tmp_path / "run"), "--total-items", "16"])
    row = {"encoder": 0.7, "random": 0.6, "input": 0.7}
    monkeypatch.setattr(export_encoder.probe_encoder, "table", lambda *_: {"mnist_small": row})
    with pytest.raises(SystemExit, match="not fit to be a base: a probe on mnist_small"):
        export_encoder.export("vit", tmp_path / "run", tmp_path / "tiny-vit", bank, tmp_path, "", "", "")
    assert not (tmp_path / "tiny-vit").exists()
