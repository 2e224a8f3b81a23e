"""The log ratio and the activations: both sides from one function, whatever the batch, the padding or the shortcut."""

import pytest
import torch
from torch import nn

from pairtune.errors import MissingView, PairtuneError
from pairtune.pair.base import Base
from pairtune.pair.installed import SwappedParameters
from pairtune.pair.logprobs import token_log_probs
from pairtune.pair.pair import Layer, Pair

TEXTS = ["the cat sat on the mat", "a dog", "who is the old man by the river ?", "please open the account", "yes"]


def batch_of(tokenizer, texts, side="right"):
    tokenizer.padding_side = side
    return dict(tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False))


def changed_pair(folder, first_block=0, **load):
    """A pair whose delta changes the blocks from `first_block` on."""
    base = Base.load(folder, **load)
    prefixes = tuple(name + "." for name, _ in base.blocks[first_block:])
    torch.manual_seed(1)
    variants = {
        name: nn.Parameter(p.detach() + 0.1 * torch.randn_like(p))
        for name, p in base.parameters.items()
        if name.startswith(prefixes) and p.ndim == 2
    }
    installed = SwappedParameters(base.model, variants)
    return Pair(base, [Layer(installed, lambda: None)])  # type: ignore[arg-type, return-value]


def plain_log_probs(model, tokenizer, text):
    ids = tokenizer(text, return_tensors="pt", return_token_type_ids=False).input_ids
    with torch.no_grad():
        logits = model(input_ids=ids).logits.double().log_softmax(-1)
    return logits[0, :-1].gather(-1, ids[0, 1:, None]).squeeze(-1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_per_token_numbers_do_not_depend_on_batch_or_padding(tiny_llama, side, size):
    pair = changed_pair(tiny_llama, first_block=2)
    for start in range(0, len(TEXTS), size):
        texts = TEXTS[start : start + size]
        ratio = pair.log_ratio(batch_of(pair.tokenizer, texts, side))
        for row, text in enumerate(texts):
            with pair.off():
                base = plain_log_probs(pair.model, pair.tokenizer, text)
            variant = plain_log_probs(pair.model, pair.tokenizer, text)
            found = ratio.values[row][ratio.mask[row]]
            assert torch.allclose(found.double(), variant - base, atol=1e-5)
            assert torch.allclose(ratio.sum()[row].double(), (variant - base).sum(), atol=1e-5)


def test_the_shortcut_is_used_and_equals_the_plain_pass(tiny_llama):
    pair = changed_pair(tiny_llama, first_block=3)
    batch = batch_of(pair.tokenizer, TEXTS)
    pair.log_ratio(batch)
    calls = []
    for _, block in pair.base.blocks:
        block.mlp.register_forward_hook(lambda *args: calls.append(1))
    quick = pair.log_ratio(batch)
    assert len(calls) == 4 + 1  # all blocks once for the base, only the last for the variant
    pair._trusted[1] = False
    assert torch.equal(pair.log_ratio(batch).values, quick.values)


def test_a_shortcut_that_would_be_wrong_is_not_taken(tiny_llama):
    pair = changed_pair(tiny_llama, first_block=0)
    batch = batch_of(pair.tokenizer, TEXTS)
    honest = pair.log_ratio(batch).values
    pair.layers[0].installed.first_changed = lambda: 2  # type: ignore[method-assign]
    assert torch.equal(pair.log_ratio(batch).values, honest)
    assert pair._trusted[1] is False


def test_equal_sides_give_exactly_zero(tiny_llama, tiny_t5):
    for folder in (tiny_llama, tiny_t5):
        base = Base.load(folder)
        variants = {n: nn.Parameter(p.detach().clone()) for n, p in base.parameters.items()}
        pair = Pair(base, [Layer(SwappedParameters(base.model, variants), lambda: None)])  # type: ignore
        batch = batch_of(base.tokenizer, TEXTS)
        if base.family == "seq2seq":
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        assert not pair.log_ratio(batch).values.any()


def test_an_encoder_decoder_scores_its_targets(tiny_t5):
    pair = changed_pair(tiny_t5)
    batch = batch_of(pair.tokenizer, TEXTS)
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    ratio = pair.log_ratio(batch)
    with torch.no_grad():
        logits = pair.model(**batch).logits.double().log_softmax(-1)
    expected = logits.gather(-1, batch["labels"].clamp(min=0).unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(ratio.variant.double()[ratio.mask], expected[ratio.mask], atol=1e-5)
    alone = {k: v[1:2, : int(batch["attention_mask"][1].sum())] for k, v in batch.items()}
    assert torch.allclose(pair.log_ratio(alone).sum(), ratio.sum()[1], atol=1e-5)


def test_soft_caps_and_scales_around_the_head_survive_the_slices(monkeypatch):
    from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

    from pairtune.pair import logprobs

    size = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    models = [
        Gemma2ForCausalLM(Gemma2Config(**size, **heads, head_dim=8, final_logit_softcapping=0.5)),
        CohereForCausalLM(CohereConfig(**size, **heads, logit_scale=0.3)),
    ]
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", 50 * 3 * 2)
    ids = torch.randint(3, 50, (3, 9))
    for model in models:
        model.eval()
        with torch.no_grad():
            plain = model(input_ids=ids).logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
            found = token_log_probs(model, model, {"input_ids": ids}, ids)
        assert torch.allclose(found[:, 1:], plain, atol=1e-6)
        assert not found[:, 0].any()


def test_a_model_that_asks_its_backbone_for_more_is_scored():
    """GPT-2's head reads the cross-attentions of its backbone's output, too."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=8, n_layer=2, n_head=2, n_positions=16)).eval()
    ids = torch.randint(1, 60, (2, 9))
    with torch.no_grad():
        found = token_log_probs(model, model, {"input_ids": ids}, ids)
        said = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    expected = said.gather(-1, ids[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(found[:, 1:], expected, atol=1e-5, rtol=1e-5)


def test_activations_of_both_sides(tiny_llama, tiny_bert, tiny_t5):
    for folder in (tiny_llama, tiny_bert, tiny_t5):
        pair = changed_pair(folder, first_block=1)
        batch = batch_of(pair.tokenizer, TEXTS)
        if pair.base.family == "seq2seq":
            batch["labels"] = batch["input_ids"]
        found = pair.activations(batch, [0, 1, -1])
        assert torch.equal(found.base[0], found.variant[0]) and torch.equal(found.base[1], found.variant[1])
        assert not torch.allclose(found.base[-1], found.variant[-1])
        assert found.base[0].shape == (len(TEXTS), batch["input_ids"].shape[1], 16)


def test_an_encoder_without_a_trained_base_head_has_no_ratio(tiny_bert):
    pair = changed_pair(tiny_bert, task="classification", labels=["a", "b"])
    with pytest.raises(MissingView, match="no trained head"):
        pair.log_ratio(batch_of(pair.tokenizer, TEXTS))
    with pytest.raises(MissingView, match="bare encoder"):
        changed_pair(tiny_bert).log_ratio(batch_of(pair.tokenizer, TEXTS))


def test_switching_between_forward_and_backward_raises(tiny_llama):
    pair = changed_pair(tiny_llama)
    batch = batch_of(pair.tokenizer, TEXTS)
    loss = pair.forward(batch).logits.sum()  # type: ignore[union-attr]
    with pair.off(), pytest.raises(PairtuneError, match="switched between"):
        loss.backward()
    loss = pair.forward(batch).logits.sum()  # type: ignore[union-attr]
    pair.base_outputs(batch)
    loss.backward()
