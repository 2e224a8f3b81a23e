"""Rows to ids for encoders and encoder-decoders, and whole splits as features."""

import pytest
import torch
from tests.data.files import LONG, ROWS, WORDS, ids, jsonl, tiny_task
from transformers import AutoTokenizer

from pairtune.data.collate import Collator
from pairtune.data.encode import Encoder
from pairtune.data.split import Split
from pairtune.data.task import Task
from pairtune.errors import DataError, InputError


@pytest.fixture(scope="module")
def llama(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def bert(tiny_bert):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


@pytest.fixture(scope="module")
def t5(tiny_t5):
    return AutoTokenizer.from_pretrained(tiny_t5)


# -- encoders ----------------------------------------------------------------------------------------------------------


def test_an_encoder_reads_text_or_pair_with_token_types(bert):
    row = Encoder(tiny_task(ROWS), bert, "encoder", 64)(ROWS[0])
    assert row == {"input_ids": [1, *ids(bert, "the cat")], "token_type_ids": [0, 0, 0], "label": 1}
    rows = [{"a": "the cat", "b": "dog", "label": "card"}]
    pair = Encoder(tiny_task(rows, text=("a", "b")), bert, "encoder", 64)(rows[0])
    assert pair["input_ids"] == bert("the cat", "dog")["input_ids"]
    assert len(pair["token_type_ids"]) == len(pair["input_ids"])


def test_an_encoder_cuts_on_the_right(bert):
    encoder = Encoder(tiny_task(ROWS), bert, "encoder", 5)
    rows = encoder.many(ROWS)
    assert rows[1]["input_ids"] == [1, *ids(bert, LONG)[:4]]
    assert [row.get("cut", False) for row in rows] == [False, True, False]
    assert len(rows[1]["token_type_ids"]) == 5


def test_labels_of_every_kind(bert):
    assert [row["label"] for row in Encoder(tiny_task(ROWS), bert, "encoder", 64).many(ROWS)] == [1, 0, 0]
    many = [
        {"text": "a", "label": ["open_card", "card"]},
        {"text": "b", "label": []},
        {"text": "c", "label": "open_card"},
    ]
    encoder = Encoder(tiny_task(many, "multilabel"), bert, "encoder", 64)
    assert [row["label"] for row in encoder.many(many)] == [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    numbers = [{"text": "a", "label": "1.5"}, {"text": "b", "label": -2}]
    assert [row["label"] for row in Encoder(tiny_task(numbers, "regression"), bert, "encoder", 64).many(numbers)] == [
        1.5,
        -2.0,
    ]
    assert "label" not in Encoder(tiny_task(ROWS), bert, "encoder", 64)({"text": "a", "label": "oos"})


def test_a_head_on_a_language_model_reads_the_text_alone(llama):
    row = Encoder(tiny_task(ROWS), llama, "causal", 64, view="labels")(ROWS[0])
    assert row == {"input_ids": [1, *ids(llama, "the cat")], "label": 1}


# -- encoder-decoders --------------------------------------------------------------------------------------------------


def test_an_encoder_decoder_reads_the_source_and_writes_the_target(t5):
    rows = [{"text": LONG, "label": "sat on"}, {"text": "a", "label": LONG}]
    encoder = Encoder(tiny_task(rows, "seq2seq"), t5, "seq2seq", 6)
    row = encoder(rows[0])
    assert row == {"input_ids": [1, *ids(t5, LONG)[:5]], "labels": [1, *ids(t5, "sat on"), 2], "cut": True}
    with pytest.raises(DataError, match="takes 11 tokens, 6 fit"):
        encoder(rows[1])
    said = Encoder(tiny_task(ROWS), t5, "seq2seq", 64)(ROWS[0])
    assert said == {"input_ids": [1, *ids(t5, "the cat")], "labels": [1, *ids(t5, "open card"), 2]}


def test_a_text_to_write_goes_with_either_family(llama, t5):
    rows = [{"text": "the cat", "label": "sat"}]
    assert Encoder(tiny_task(rows, "lm"), t5, "seq2seq", 16).task.kind == "seq2seq"
    assert Encoder(tiny_task(rows, "seq2seq"), llama, "causal", 16)(rows[0])["labels"][:3] == [-100] * 3


@pytest.mark.parametrize(
    ("kind", "family", "view", "message"),
    [
        ("lm", "encoder", None, "cannot be learnt by an encoder"),
        ("regression", "causal", "tokens", "regression cannot be said as text; take the labels view"),
        ("multilabel", "seq2seq", None, "multilabel cannot be said as text"),
        ("classification", "encoder", "tokens", "an encoder has no language-model head"),
        ("lm", "causal", "labels", "have no classes or numbers for a head"),
        ("classification", "decoder", None, "expected one of encoder, causal, seq2seq, found 'decoder'"),
    ],
)
def test_what_a_family_cannot_learn_is_refused(llama, kind, family, view, message):
    with pytest.raises(InputError, match=message):
        Encoder(tiny_task(ROWS, kind), llama, family, 16, view=view)


# -- splits ------------------------------------------------------------------------------------------------------------


def test_a_split_is_encoded_as_asked_for_and_counts_what_it_cut(llama, tmp_path):
    rows = [{"text": " ".join(WORDS[: 2 + i % 9]), "label": "card"} for i in range(30)]
    found = Task.load(splits={"train": str(jsonl(tmp_path / "x.jsonl", rows))}, labels=["card", "open_card"])
    split = Split.read(tmp_path / "x.jsonl")
    encoded = Encoder(found, llama, "causal", 9).split(split)
    assert encoded[4] == encoded[4 - 30] == encoded.take([4])[0]
    assert encoded[4]["index"] == 4
    assert [row["input_ids"] for row in encoded.take([3, 1])] == [encoded[3]["input_ids"], encoded[1]["input_ids"]]
    assert encoded.lengths == [len(encoded[i]["input_ids"]) for i in range(30)]
    assert encoded.cut == [i for i in range(30) if 2 + i % 9 > 5]
    assert encoded.report() == (
        f"{len(encoded.cut)} of 30 rows are longer than 9 tokens and were cut on the left "
        f"({tmp_path}/x.jsonl:5; {tmp_path}/x.jsonl:6; {tmp_path}/x.jsonl:7; ...)"
    )
    assert Encoder(found, llama, "causal", 60).split(split).report() is None


def test_a_torch_loader_takes_it(bert):
    encoded = Encoder(tiny_task(ROWS), bert, "encoder", 16).split(Split.of(ROWS))
    loader = torch.utils.data.DataLoader(encoded, batch_size=2, collate_fn=Collator(bert, "encoder"))  # type: ignore
    assert [batch["index"].tolist() for batch in loader] == [[0, 1], [2]]
