"""Ranking labels by log p(label | text): the tree equals plain rows, on every family that ranks."""

import pytest
import torch

from pairtune import registry
from pairtune.errors import InputError
from pairtune.pair.base import Base
from pairtune.pair.label_ranking import LabelRanker
from pairtune.pair.pair import Layer, Pair

TEXTS = [[1, 20, 31], [1, 8, 9, 30, 41, 22, 17], [1, 5]]
LABELS = [[40, 2], [41, 42, 43, 2], [44, 42, 2], [2]]


def plain(model, text, label):
    """float64 log p(label | text) from one ordinary forward."""
    ids = torch.tensor([text + label])
    with torch.no_grad():
        log_probs = model(input_ids=ids).logits.double().log_softmax(-1)[0]
    return sum(log_probs[len(text) + j - 1, token] for j, token in enumerate(label))


def test_the_tree_equals_plain_rows(tiny_llama):
    pair = Pair(Base.load(tiny_llama))
    ranker = LabelRanker(pair, LABELS)
    found = ranker.rank(TEXTS)
    assert ranker._tree is True
    for b, text in enumerate(TEXTS):
        for k, label in enumerate(LABELS):
            assert found[b, k].item() == pytest.approx(plain(pair.model, text, label).item(), abs=1e-5)
    assert torch.allclose(ranker._rank_rows(TEXTS), found, atol=1e-5)


def test_one_forward_ranks_a_batch(tiny_llama):
    pair = Pair(Base.load(tiny_llama))
    ranker = LabelRanker(pair, LABELS)
    ranker.rank(TEXTS)
    calls = []
    pair.base.blocks[0][1].register_forward_hook(lambda *args: calls.append(1))
    ranker.rank(TEXTS)
    assert len(calls) == 1


def test_a_model_that_cannot_take_the_tree_is_ranked_by_rows(tmp_path):
    from tests.conftest import make_tokenizer, save
    from transformers import BloomConfig, BloomForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=len(tokenizer), hidden_size=16, n_layer=2, n_head=2)
    pair = Pair(Base.load(save(tmp_path / "bloom", BloomForCausalLM(config), tokenizer)))
    found = LabelRanker(pair, LABELS).rank(TEXTS)
    assert found[1, 1].item() == pytest.approx(plain(pair.model, TEXTS[1], LABELS[1]).item(), abs=1e-5)


def test_logits_that_a_delta_moves_are_ranked_whichever_side_came_first(tiny_llama):
    base = Base.load(tiny_llama)
    tuner = registry.build("tuners", "linearized", {})
    pair = Pair(base, [Layer(installed := tuner.install(base, base.model), lambda: tuner.extract(installed))])
    with torch.no_grad():
        for _, parameter in installed.trainable():
            parameter.add_(0.05 * torch.randn_like(parameter))
    ranker = LabelRanker(pair, LABELS)
    with pair.off():
        before = ranker.rank(TEXTS[:1])
    assert ranker._tree and pair.by_head is False
    found = ranker.rank(TEXTS[:1])
    assert (found - before).abs().max() > 0.1
    for k, label in enumerate(LABELS):
        assert found[0, k].item() == pytest.approx(plain(pair.model, TEXTS[0], label).item(), abs=1e-4)


def test_an_encoder_decoder_ranks_too(tiny_t5):
    pair = Pair(Base.load(tiny_t5))
    found = LabelRanker(pair, LABELS).rank(TEXTS)
    model = pair.base.model
    ids = torch.tensor([LABELS[1]])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([TEXTS[1]]), labels=ids).logits.double().log_softmax(-1)
    expected = logits[0].gather(-1, ids[0, :, None]).sum().item()
    assert found[1, 1].item() == pytest.approx(expected, abs=1e-5)


def test_empty_texts_and_labels_are_refused(tiny_llama):
    pair = Pair(Base.load(tiny_llama))
    with pytest.raises(InputError, match="label 1"):
        LabelRanker(pair, [[3], []])
    with pytest.raises(InputError, match="no tokens"):
        LabelRanker(pair, LABELS).rank([[1, 2], []])
