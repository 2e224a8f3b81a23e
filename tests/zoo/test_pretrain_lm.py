"""The pretraining script on a tiny model: exact resume, the loss that avoids the logits, the corpus' guards."""

import gzip
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pairtune.zoo import corpus, lm_checkpoint, pretrain_lm
from pairtune.zoo.corpus_text import strip_markup
from pairtune.zoo.lm_loss import linear_cross_entropy

VOCABULARY = 64


@pytest.fixture
def tokens(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    np.random.default_rng(0).integers(0, VOCABULARY, 5000).astype(np.uint16).tofile(folder / "train.bin")
    (folder / "manifest.json").write_text(json.dumps({"vocabulary": VOCABULARY, "checksum": 7, "tokens": 5000}))
    return folder


def _args(tokens, out, total, *more):
    small = "--width 16 --inner 32 --layers 2 --heads 2 --context 16 --tokens-per-step 128 --warmup-tokens 256"
    return pretrain_lm.parse(
        [
            *small.split(),
            "--corpus",
            str(tokens),
            "--out",
            str(out),
            "--decay-tokens",
            "512",
            "--micro",
            "4",
            "--device",
            "cpu",
            "--total-tokens",
            str(total),
            *more,
        ]
    )


def _latest(run):
    folder = lm_checkpoint.latest(run)
    assert folder is not None
    return folder


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_resume_is_bit_equal(tokens, tmp_path, optimizer, monkeypatch):
    whole = pretrain_lm.train(_args(tokens, tmp_path / "whole", 2048, "--optimizer", optimizer))
    real = lm_checkpoint.save
    calls = []

    def stop_after_first(*args, **kwargs):
        calls.append(real(*args, **kwargs))
        if len(calls) == 1:
            raise KeyboardInterrupt  # the process dies just after a checkpoint in the middle of the run
        return calls[-1]

    halves = _args(tokens, tmp_path / "halves", 2048, "--optimizer", optimizer, "--keep-every", "1024")
    monkeypatch.setattr(lm_checkpoint, "save", stop_after_first)
    with pytest.raises(KeyboardInterrupt):
        pretrain_lm.train(halves)
    assert json.loads((calls[0] / "state.json").read_text())["tokens"] == 1024
    resumed = pretrain_lm.train(halves)
    assert resumed["tokens"] == whole["tokens"] == 2048
    for name in ("weights.safetensors", "moments.safetensors"):
        one = load_file(_latest(tmp_path / "whole") / name)
        two = load_file(_latest(tmp_path / "halves") / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_kept_checkpoints_stay(tokens, tmp_path):
    pretrain_lm.train(_args(tokens, tmp_path / "run", 1024, "--keep-every", "256"))
    assert len(list((tmp_path / "run").glob("step-*"))) == 4


def test_another_corpus_is_refused(tokens, tmp_path):
    args = _args(tokens, tmp_path / "run", 256)
    pretrain_lm.train(args)
    (tokens / "manifest.json").write_text(json.dumps({"vocabulary": VOCABULARY, "checksum": 8, "tokens": 5000}))
    with pytest.raises(SystemExit, match="another corpus"):
        pretrain_lm.train(args)


def test_unfinished_checkpoint_is_not_taken(tmp_path):
    (tmp_path / "step-00000009.part").mkdir()
    (tmp_path / "step-00000003").mkdir()
    assert _latest(tmp_path).name == "step-00000003"


def test_loss_and_gradients_equal_the_plain_ones():
    torch.manual_seed(0)
    hidden, weight = torch.randn(37, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    target = torch.randint(0, 50, (37,))
    plain = torch.nn.functional.cross_entropy(hidden @ weight.T, target)
    wanted = torch.autograd.grad(plain, [hidden, weight])
    loss = linear_cross_entropy(hidden, weight, target, chunk=10, dtype=torch.float32)
    torch.testing.assert_close(loss, plain)
    for got, want in zip(torch.autograd.grad(loss, [hidden, weight]), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_rate_rises_stays_and_falls_to_zero(tokens, tmp_path):
    args = _args(tokens, tmp_path, 4096)
    shares = [pretrain_lm.rate(t, args) for t in range(0, 4097, 64)]
    assert shares[0] < 0.01
    assert max(shares) == pretrain_lm.rate(2048, args) == 1.0
    assert shares[-1] == 0.0
    assert pretrain_lm.rate(4096 - 256, args) == 0.5


def test_test_splits_are_kept_out(tmp_path):
    path = tmp_path / "test.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"text": "one two three four five six seven eight nine"}) + "\n")
        file.write(json.dumps({"text": "Where is my card?"}) + "\n")
    avoid = corpus.Avoid([path])
    text = (
        "Keep this line.\nand two three four FIVE, six seven eight nine too\nwhere is my card\nwhere is my other card"
    )
    assert avoid.clean("here", text) == "Keep this line.\nwhere is my other card"
    assert avoid.dropped["here"] == 2


def test_markup_is_stripped():
    page = "<head>x</head><p>Choose the blue button &amp; press it.</p><pre>rm -rf</pre><li>two</li>"
    assert strip_markup(page) == "Choose the blue button & press it."
