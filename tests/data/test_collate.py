"""Batches: padding that hides nothing and is never confused with a token, on either side."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pairtune.data.buckets import batches
from pairtune.data.collate import Collator
from pairtune.errors import DataError, InputError

ROWS = [
    {"input_ids": [1, 9, 2], "labels": [-100, 9, 2], "target": [0, 0, 1], "index": 4},
    {"input_ids": [1, 9, 2, 7, 2], "labels": [-100, 9, 2, 7, 2], "target": [0, 0, 0, 1, 1], "index": 2},
]


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


def test_a_causal_batch_on_either_side(tokenizer):
    right, left = (Collator(tokenizer, "causal", side)(ROWS) for side in ("right", "left"))
    assert right["input_ids"].tolist() == [[1, 9, 2, 0, 0], [1, 9, 2, 7, 2]]
    assert right["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert right["labels"].tolist() == [[-100, 9, 2, -100, -100], [-100, 9, 2, 7, 2]]
    assert right["target"].tolist()[0] == [False, False, True, False, False]
    assert right["index"].tolist() == [4, 2]
    assert left["input_ids"].tolist()[0] == [0, 0, 1, 9, 2]
    assert left["attention_mask"].tolist()[0] == [0, 0, 1, 1, 1]
    assert left["labels"].tolist()[0] == [-100, -100, -100, 9, 2]
    assert left["position_ids"].tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]
    assert all(tensor.dtype == (torch.bool if key == "target" else torch.int64) for key, tensor in right.items())


def test_an_end_token_used_for_padding_stays_visible_where_it_is_real(tokenizer):
    shared = copy.deepcopy(tokenizer)
    shared.pad_token = shared.eos_token
    batch = Collator(shared, "causal")(ROWS)
    assert batch["input_ids"].tolist()[0] == [1, 9, 2, 2, 2]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist()[0] == [-100, 9, 2, -100, -100]
    shared.pad_token = None
    assert Collator(shared, "causal").pad_id == 2


def test_logits_do_not_depend_on_the_padding(tiny_llama, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    with torch.no_grad():
        for side in ("right", "left"):
            batch = Collator(tokenizer, "causal", side)(ROWS)
            logits = model(**{k: batch[k] for k in ("input_ids", "attention_mask", "position_ids")}).logits
            for i, row in enumerate(ROWS):
                alone = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
                assert torch.allclose(logits[i][batch["attention_mask"][i] == 1], alone, atol=1e-5)


def test_labels_of_every_kind(tokenizer):
    collate = Collator(tokenizer, "encoder")

    def rows(*labels):
        return [{"input_ids": [1], "token_type_ids": [0], **({} if one is None else {"label": one})} for one in labels]

    assert collate(rows(2, 0))["labels"].tolist() == [2, 0]
    assert collate(rows(2, None))["labels"].tolist() == [2, -100]
    assert collate(rows(0.5, 2.0))["labels"].dtype == torch.float32
    assert collate(rows([1.0, 0.0], [0.0, 0.0]))["labels"].shape == (2, 2)
    assert "labels" not in collate(rows(None, None))
    assert "position_ids" not in collate(rows(1))
    assert collate(rows(1))["token_type_ids"].tolist() == [[0]]
    with pytest.raises(DataError, match="row 1 has no label"):
        collate(rows(0.5, None))
    with pytest.raises(InputError, match="expected right or left"):
        Collator(tokenizer, "encoder", "centre")  # type: ignore[arg-type]


def test_an_encoder_decoder_pads_its_labels_on_the_right(tokenizer):
    rows = [{"input_ids": [1], "labels": [5, 2]}, {"input_ids": [1, 6], "labels": [2]}]
    batch = Collator(tokenizer, "seq2seq", "left")(rows)
    assert batch["input_ids"].tolist() == [[0, 1], [1, 6]]
    assert batch["labels"].tolist() == [[5, 2], [2, -100]]
    assert "position_ids" not in batch


def test_buckets_stay_under_the_budget_and_can_be_undone():
    lengths = [3, 9, 1, 4, 4, 30, 2, 8]
    found, order = batches(lengths, tokens=16)
    assert found == [[5], [1], [7, 3], [4, 0, 6, 2]]
    assert all(len(batch) * max(lengths[i] for i in batch) <= 16 for batch in found[1:])
    flat = [lengths[i] for batch in found for i in batch]
    assert [flat[i] for i in order] == lengths
    assert max(len(batch) for batch in batches(lengths, tokens=100, rows=3)[0]) == 3
    assert batches([], tokens=8) == ([], [])
    with pytest.raises(InputError, match="tokens=0"):
        batches(lengths, tokens=0)
