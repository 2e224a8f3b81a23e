"""Rows to ids for a causal language model: what is scored, what is cut, and what never is."""

import pytest
from tests.data.files import LONG, ROWS, ids, tiny_task
from transformers import AutoTokenizer

from pairtune.data.encode import Encoder
from pairtune.data.split import Split
from pairtune.errors import DataError, InputError


@pytest.fixture(scope="module")
def llama(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def t5(tiny_t5):
    return AutoTokenizer.from_pretrained(tiny_t5)


def test_classification_as_text_scores_text_and_label_and_marks_the_label(llama):
    encoder = Encoder(tiny_task(ROWS), llama, "causal", 64)
    row = encoder(ROWS[0], 7)
    whole = [1, *ids(llama, "the cat"), *ids(llama, "open card"), 2]
    assert row == {
        "input_ids": whole,
        "labels": [-100, *whole[1:]],
        "target": [0, 0, 0, 1, 1, 1],
        "index": 7,
    }
    only = Encoder(tiny_task(ROWS), llama, "causal", 64, completion_only=True)(ROWS[0])
    assert only["labels"] == [-100, -100, -100, *ids(llama, "open card"), 2]


def test_a_text_is_cut_on_the_left_so_that_any_label_fits(llama):
    encoder = Encoder(tiny_task(ROWS), llama, "causal", 8)
    text = ids(llama, LONG)
    for label, said in (("card", "card"), ("open_card", "open card")):
        row = encoder({"text": LONG, "label": label})
        assert row["input_ids"] == [1, *text[-4:], *ids(llama, said), 2]  # the same text whichever label follows
        assert row["cut"]
    with pytest.raises(InputError, match="max_length 4 leaves no room .*longest label .3 tokens"):
        Encoder(tiny_task(ROWS), llama, "causal", 4)


def test_a_text_alone_is_the_beginning_of_the_row_that_is_trained_on(llama):
    encoder = Encoder(tiny_task(ROWS), llama, "causal", 8)
    for row in ROWS:
        alone, whole = encoder(row, text_only=True), encoder(row)
        assert whole["input_ids"][: len(alone["input_ids"])] == alone["input_ids"]
        assert set(alone) <= {"input_ids", "cut"}
        assert sum(whole["target"]) == len(whole["input_ids"]) - len(alone["input_ids"])
    plain = tiny_task(ROWS, "lm", label=None)
    assert Encoder(plain, llama, "causal", 8)(ROWS[0], text_only=True)["input_ids"] == [1, *ids(llama, "the cat")]


def test_the_seam_does_not_depend_on_the_text():
    """With a tokenizer that merges over the seam, text and label still keep their own tokens."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["</s>", "a", "b", "\n", ".", ".\n", "\na", "\nb"])}
    merges = [(".", "\n"), ("\n", "a"), ("\n", "b")]
    bpe = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, merges)), eos_token="</s>")
    assert ids(bpe, "a.\nb") == [1, 5, 2]  # the tokenizer alone would give the label other tokens behind a full stop
    encoder = Encoder(tiny_task([{"text": "a.", "label": "b"}], labels=["a", "b"]), bpe, "causal", 16)
    assert encoder({"text": "a.", "label": "b"})["input_ids"] == [1, 4, 7, 0]
    assert encoder({"text": "a", "label": "b"})["input_ids"] == [1, 7, 0]
    assert encoder({"text": "a", "label": "b"})["labels"] == [-100, 7, 0]  # no start token: nothing predicts the first


def test_the_start_token_is_there_once_and_so_is_the_end(llama):
    encoder = Encoder(tiny_task(ROWS), llama, "causal", 64)
    assert encoder({"text": "<s> the cat", "label": "card"}) == encoder({"text": "the cat", "label": "card"})
    plain = Encoder(tiny_task(ROWS, "lm", label=None), llama, "causal", 64)
    assert plain({"text": "<s> dog </s>"})["input_ids"] == [1, *ids(llama, "dog"), 2]


def test_ranking_parts_rebuild_every_training_row(llama, t5):
    encoder = Encoder(tiny_task(ROWS, separator=" ?"), llama, "causal", 64)
    shared, rest = encoder.ranking()
    assert shared == ids(llama, "?")
    for row in ROWS:
        label = encoder.task.target(row)
        alone = encoder(row, text_only=True)["input_ids"]
        assert alone + shared + rest[label] == encoder(row)["input_ids"]
    one = Encoder(tiny_task(ROWS, labels=["card"]), llama, "causal", 64).ranking()
    assert one == ([*ids(llama, "card")], [[2]])
    seq = Encoder(tiny_task(ROWS), t5, "seq2seq", 64)
    assert seq.ranking() == ([], [seq(ROWS[1])["labels"], seq(ROWS[0])["labels"]])


def test_labels_that_the_tokenizer_cannot_tell_apart_are_refused(llama):
    rows = [{"text": "a", "label": "zebra"}]
    with pytest.raises(InputError, match="'zebra' and 'giraffe' have the same tokens"):
        Encoder(tiny_task(rows, labels=["zebra", "giraffe"]), llama, "causal", 16)
    with pytest.raises(InputError, match="both said as 'a b'"):
        Encoder(tiny_task(rows, labels=["a_b", "a b"]), llama, "causal", 16)


def test_plain_text_is_scored_whole_and_a_cut_one_does_not_end(llama):
    encoder = Encoder(tiny_task(ROWS, "lm", label=None), llama, "causal", 6)
    text = ids(llama, "the cat")
    assert encoder(ROWS[0]) == {"input_ids": [1, *text, 2], "labels": [-100, *text, 2], "target": [0] * 4}
    cut = encoder(ROWS[1])
    assert cut["input_ids"] == [1, *ids(llama, LONG)[:5]]
    assert cut["cut"]


def test_a_completion_is_scored_alone_and_never_cut(llama):
    rows = [{"text": "the cat", "label": "sat on"}, {"text": LONG, "label": "mat"}, {"text": "a", "label": LONG}]
    encoder = Encoder(tiny_task(rows, "lm"), llama, "causal", 7)
    first = encoder(rows[0])
    assert first["input_ids"] == [1, *ids(llama, "the cat sat on"), 2]
    assert first["labels"] == [-100, -100, -100, *ids(llama, "sat on"), 2]
    second = encoder(rows[1])
    assert second["input_ids"] == [1, *ids(llama, LONG)[-4:], *ids(llama, "mat"), 2]
    with pytest.raises(DataError, match="the text to write takes 10 tokens, 6 fit"):
        encoder(rows[2])
    with pytest.raises(DataError, match=r"rows\.jsonl, line 3: the text to write takes 10 tokens"):
        encoder.split(Split.of(rows, "rows.jsonl")).take([0, 2])
    everything = Encoder(tiny_task(rows, "lm"), llama, "causal", 7, completion_only=False)(rows[0])
    assert everything["labels"] == [-100, *everything["input_ids"][1:]]


def test_room_that_is_filled_exactly(llama):
    rows = [{"text": "the cat", "label": LONG}]
    encoder = Encoder(tiny_task(rows, "lm"), llama, "causal", 11)
    row = encoder(rows[0])
    assert row["input_ids"] == [1, *ids(llama, LONG), 2]
    assert row["cut"]


def test_two_columns_are_joined_by_the_separator(llama):
    rows = [{"a": "the cat", "b": "dog", "label": "card"}, {"a": "the cat", "b": "", "label": "card"}]
    encoder = Encoder(tiny_task(rows, text=("a", "b"), separator=" and "), llama, "causal", 64)
    assert encoder(rows[0])["input_ids"] == [1, *ids(llama, "the cat and dog and card"), 2]
    assert encoder(rows[1])["input_ids"] == [1, *ids(llama, "the cat and card"), 2]


def test_an_unlabelled_row_has_its_text(llama):
    encoder = Encoder(tiny_task(ROWS), llama, "causal", 64)
    for row in ({"text": "dog"}, {"text": "dog", "label": "oos"}):
        features = encoder(row)
        assert features["input_ids"] == [1, *ids(llama, "dog")]
        assert features["target"] == [0, 0]


def test_a_tokenizer_without_an_end_token_is_refused(llama):
    import copy

    bare = copy.deepcopy(llama)
    bare.eos_token = None
    with pytest.raises(InputError, match="no end-of-text token"):
        Encoder(tiny_task(ROWS), bare, "causal", 16)


def test_a_text_without_any_token_is_named():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "</s>": 1}, [])), eos_token="</s>")
    rows = [{"text": "a"}, {"text": ""}]
    encoder = Encoder(tiny_task(rows, "lm", label=None), bare, "causal", 16)
    with pytest.raises(DataError, match="line 2: the text has no tokens"):
        encoder.split(Split.of(rows), text_only=True).take([0, 1])
