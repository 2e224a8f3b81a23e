"""Packed documents: every one complete and once, and none seeing another, proven on the logits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.data.files import WORDS
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from pairtune.data.collate import Collator
from pairtune.data.encode import Encoder
from pairtune.data.packing import Packed, pack, prove_apart
from pairtune.data.split import Split
from pairtune.data.task import Task
from pairtune.errors import InputError

ROWS = [{"text": " ".join(WORDS[i % 5 : i % 5 + 1 + i % 6])} for i in range(11)]


@given(st.lists(st.integers(0, 20), max_size=60))
def test_every_document_once_and_no_row_too_long(lengths):
    rows = pack(lengths, 20)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 20 for row in rows)
    # Best fit opens a row only where nothing else has room: no two rows fit into one.
    sums = sorted(sum(lengths[i] for i in row) for row in rows)
    assert len(sums) < 2 or sums[0] + sums[1] > 20 or 0 in lengths


def test_the_best_fitting_row_is_taken():
    assert pack([5, 6, 4, 3, 2], 10) == [[1, 2], [0, 3, 4]]
    with pytest.raises(InputError, match="document 1 has 9 tokens, more than a row of 8"):
        pack([3, 9], 8)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture
def packed(tokenizer):
    task = Task("plain", "lm", ("text",), None, [], {"train": Split.of(ROWS)})
    return Packed(Encoder(task, tokenizer, "causal", 12).split(task.splits["train"]))


def test_a_key_value_cache_would_let_documents_see_each_other(tiny_llama, tokenizer, packed):
    """Why `use_cache=False` is asked for: should this ever fail, transformers has closed the trap."""
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    batch = Collator(tokenizer, "causal")([packed[0]])
    with torch.no_grad():
        cached, right = (
            model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=use).logits
            for use in (True, False)
        )
    assert not torch.allclose(cached, right, atol=1e-2)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_document_has_the_logits_that_it_has_alone(tiny_llama, tokenizer, packed, attention):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation=attention).eval()
    batch = Collator(tokenizer, "causal")([packed[i] for i in range(len(packed))])
    assert "attention_mask" not in batch
    seen = 0
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        for row, documents in enumerate(packed.rows):
            at = 0
            for i in documents:
                alone = packed.encoded[i]
                ids = torch.tensor([alone["input_ids"]])
                end = at + ids.shape[1]
                assert torch.allclose(logits[row, at:end], model(input_ids=ids).logits[0], atol=1e-5)
                assert batch["labels"][row, at:end].tolist() == alone["labels"]
                at, seen = end, seen + 1
    assert seen == len(ROWS)
    assert max(map(len, packed.rows)) > 1
    assert prove_apart(model) < 1e-5


def test_the_loss_of_packed_rows_is_that_of_single_ones(tiny_llama, tokenizer, packed):
    """One row full of padding at its end, so that padding between and behind documents is covered."""
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()

    def summed(batch, **keys):
        with torch.no_grad():
            logits = model(**{k: batch[k] for k in ("input_ids", "position_ids", *keys)}, use_cache=False).logits
        targets = batch["labels"][:, 1:]
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].double().reshape(-1, logits.shape[-1]), targets.reshape(-1), reduction="sum"
        ), int((targets >= 0).sum())

    collate = Collator(tokenizer, "causal")
    together = summed(collate([packed[i] for i in range(len(packed))]))
    alone = summed(collate([packed.encoded[i] for i in range(len(ROWS))]), attention_mask=True)
    assert together[1] == alone[1]
    assert together[0].item() == pytest.approx(alone[0].item(), rel=1e-6)


def test_a_sliding_window_stays_a_window_within_each_document(tokenizer, packed):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=3,
        initializer_range=0.2,
    )
    assert prove_apart(MistralForCausalLM(config)) < 1e-5


def test_without_a_start_token_the_first_token_of_a_document_is_not_predicted_from_the_one_before():
    from pairtune.data.packing import join

    row = join([{"input_ids": [5, 6], "labels": [5, 6], "target": [0, 1]}] * 2)
    assert row["labels"] == [-100, 6, -100, 6]
    assert row["position_ids"] == [0, 1, 0, 1]


def test_an_architecture_that_lets_documents_see_each_other_is_refused(tokenizer):
    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=16, n_layer=2, n_head=2))
    bloom.train()
    with pytest.raises(InputError, match="BloomForCausalLM .*pack"):
        prove_apart(bloom)
    assert bloom.training
    assert bloom.transformer.h[0].training


def test_only_texts_for_causal_models_are_packed(tiny_bert, packed):
    rows = [{"text": "the cat", "label": "a"}]
    task = Task("c", "classification", ("text",), "label", ["a"], {"train": Split.of(rows)})
    encoder = Encoder(task, AutoTokenizer.from_pretrained(tiny_bert), "encoder", 12)
    with pytest.raises(InputError, match="only texts for a causal language model"):
        Packed(encoder.split(task.splits["train"]))
    assert packed.report().startswith(f"11 documents packed into {len(packed)} rows of at most 12 tokens, ")
