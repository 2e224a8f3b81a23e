"""Scoring texts: the note's formulas, one sign, the order of the input, any batch."""

import numpy as np
import pytest
import torch
from torch import nn

from pairtune.errors import ConfigError, InputError, MissingView
from pairtune.ood.scoring import Scorer, score, separate
from pairtune.pair.base import Base
from pairtune.pair.installed import SwappedParameters
from pairtune.pair.pair import Layer, Pair

TEXTS = [
    "the cat sat on the mat",
    "a dog",
    "yes",
    "",
    "who is the old man by the river ?",
    "please open the account now",
]


@pytest.fixture
def pair(tiny_llama):
    base = Base.load(tiny_llama)
    torch.manual_seed(1)
    variants = {n: nn.Parameter(p + 0.05 * torch.randn_like(p)) for n, p in base.parameters.items()}
    return Pair(base, [Layer(SwappedParameters(base.model, variants), lambda: None)])  # type: ignore


def log_likelihood(pair, text):
    ids = pair.tokenizer(text, return_tensors="pt", return_token_type_ids=False).input_ids
    if ids.shape[1] < 2:
        return 0.0, 0
    with torch.no_grad():
        logits = pair.model(input_ids=ids).logits.double().log_softmax(-1)
    return float(logits[0, :-1].gather(-1, ids[0, 1:, None]).sum()), ids.shape[1] - 1


def test_sum_and_token_forms_are_the_formulas(pair):
    found = list(Scorer(pair).stream(TEXTS))
    for text, one in zip(TEXTS, found, strict=True):
        variant, count = log_likelihood(pair, text)
        with pair.off():
            base, _ = log_likelihood(pair, text)
        assert one.scores["log-ratio:sum"] == pytest.approx(base - variant, abs=1e-4)
        assert one.scores["log-ratio:token"] == pytest.approx((base - variant) / max(count, 1), abs=1e-5)
        assert one.scores["length"] == one.tokens == count + 1


def test_equal_models_score_zero_and_cannot_separate(tiny_llama):
    base = Base.load(tiny_llama)
    variants = {n: nn.Parameter(p.detach().clone()) for n, p in base.parameters.items()}
    pair = Pair(base, [Layer(SwappedParameters(base.model, variants), lambda: None)])  # type: ignore
    assert not any(score(pair, TEXTS))


def test_order_and_chunks_do_not_matter(pair, monkeypatch):
    from pairtune.ood import scoring

    whole = score(pair, TEXTS * 3)
    monkeypatch.setattr(scoring, "AT_ONCE", 4)
    monkeypatch.setattr(scoring, "tokens_a_batch", lambda _: 16)
    assert np.allclose(score(pair, TEXTS * 3), whole, atol=1e-5)
    assert np.allclose(score(pair, TEXTS[::-1])[::-1], whole[: len(TEXTS)], atol=1e-5)


def test_both_forms_run_the_models_once(pair, monkeypatch):
    calls = []
    plain = pair.log_ratio
    monkeypatch.setattr(pair, "log_ratio", lambda batch: calls.append(1) or plain(batch))
    list(Scorer(pair).stream(TEXTS))
    assert len(calls) == 1


def test_unknown_and_unfit_detectors_are_refused_by_name(pair, tiny_bert):
    with pytest.raises(InputError, match="log-ratio"):
        Scorer(pair, ["log-ration"])
    with pytest.raises(ConfigError, match="normalize"):
        Scorer(pair, ["log-ratio:words"])
    with pytest.raises(MissingView, match="tokens view"):
        Scorer(Pair(Base.load(tiny_bert)), ["log-ratio"])


def test_what_tuning_made_likely_scores_lower(tiny_llama, tmp_path):
    """One sign: after tuning on some texts these score below others."""
    import json

    import pairtune

    inside = ["the cat sat on the mat", "the dog sat on the mat", "a cat ran in the house", "the dog ran in the house"]
    outside = ["please open the account", "who is the man", "card money password", "thanks for the phone screen"]
    for name, texts in (("train", inside * 5), ("validation", inside), ("test", inside)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    (tmp_path / "ood").mkdir()
    (tmp_path / "ood" / "other.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in outside))
    config = {"base": str(tiny_llama), "data": {"source": str(tmp_path), "kind": "lm"}, "tuner": "full"}
    pair = pairtune.tune(config | {"training": {"lr": 0.01, "epochs": 10}})
    task = pairtune.Task.load(tmp_path, kind="lm")
    found = separate(pair, task, resamples=20)["ood/other"]
    assert found["log-ratio:sum"].auroc[0] == 1.0
    assert found["log-ratio:token"].auroc[0] == 1.0
