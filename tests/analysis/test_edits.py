"""What edits did: answers cut and compared by hand, the shares, and the report as table, JSON and page."""

import json

import numpy as np
import pytest
import torch
from tests.conftest import save

from pairtune import Pair, edit, measure_edits
from pairtune.analysis.edits import Share, answers, cut, edit_losses
from pairtune.cli.frame import plain
from pairtune.data.facts import Facts
from pairtune.errors import InputError, MissingView
from pairtune.pair.base import Base

ROWS = [
    {"prompt": "the cat is", "target": "red", "rephrase": ["a cat is", "cat is"], "locality": "the night is"},
    {"prompt": "the man of the house", "target": "old man", "locality": ["the screen", "the phone"]},
    {"prompt": "my", "target": "blue"},
]
GENERAL = ["the cat sat on the mat in the house", "a good man and an old woman ran by the river", "close the book"]


@pytest.fixture(scope="module")
def edited(tiny_llama, tmp_path_factory):
    """The tiny decoder, made able to be sure of an answer, with the rows edited in, and its measurement."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        model.model.norm.weight.mul_(8)
    folder = save(tmp_path_factory.mktemp("sharp"), model, AutoTokenizer.from_pretrained(tiny_llama))
    pair = edit(ROWS, str(folder), at="3:mlp.down_proj", lr=5e-2, epochs=40)
    return pair, measure_edits(pair, ROWS, general=GENERAL)


def test_an_answer_ends_at_a_line_a_stop_or_its_end():
    assert cut(" Paris. It is") == "Paris"
    assert cut(" Paris\nQ: and") == "Paris"
    assert cut("\n Paris") == ""
    assert cut(" St. Louis. It is", 1) == "St. Louis"
    assert cut(" St. Louis") == "St"


def test_shares_have_wilson_s_interval():
    one = Share.count([True] * 8 + [False] * 2)
    assert (one.right, one.of, one.share) == (8, 10, 0.8)
    # By the formula: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.959964.
    assert (one.low, one.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert Share.count([]) is None


def test_each_answer_is_what_the_model_writes_token_by_token(edited):
    pair, found = edited
    tokenizer, model = pair.tokenizer, pair.model

    def written(text, side):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        start = ids.shape[1]
        with torch.no_grad():
            while ids.shape[1] < start + 32 and ids[0, -1] != tokenizer.eos_token_id:
                ids = torch.cat([ids, side(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
        return tokenizer.decode(ids[0, start:], skip_special_tokens=True)

    prompts = [row["prompt"] for row in ROWS]
    assert answers(pair, [*prompts, *prompts]) == {text: written(text, model) for text in prompts}
    assert [one.prompt.said for one in found.edits] == [cut(written(text, model)) for text in prompts]
    with pair.reference():
        before = [written(text, model) for text in ("the night is", "the screen", "the phone")]
    assert [said.before for one in found.edits for said in one.locality] == [cut(text) for text in before]


def test_the_shares_count_what_the_answers_say(edited):
    _, found = edited
    assert found.reliability.share == 1.0 and found.already.share == 0.0
    assert [one.prompt.said for one in found.edits] == ["red", "old man", "blue"]
    assert found.generalisation.of == 2 and found.locality.of == 3
    assert found.generalisation.right == sum(said.said == "red" for said in found.edits[0].rephrases)
    around = [said for one in found.edits for said in one.locality]
    assert found.locality.right == sum(said.said == said.before for said in around) < 3
    assert found.positions == [(0, 0, 1.0), (1, 1, 1.0), (2, 2, 1.0)]
    assert found.general.after > found.general.before > 0 and len(found.general.texts) == 3
    rise = found.general.after - found.general.before
    shares = (1.0, found.generalisation.share, found.locality.share)
    assert found.score == pytest.approx(np.mean(shares) - rise)
    assert found.made["method"] == "locft-bf" and "identity" not in found.made


def test_the_loss_of_an_edit_is_that_of_its_target_alone(edited):
    pair, found = edited
    ids = pair.tokenizer("the man of the house old man")["input_ids"] + [2]
    with torch.no_grad():
        said = pair.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    expected = -np.mean([said[i - 1, ids[i]].item() for i in (6, 7, 8)])
    assert edit_losses(pair, Facts.read(ROWS))[1] == pytest.approx(expected, abs=1e-6)
    assert sum(found.losses) == 3 and found.edits[1].loss == pytest.approx(expected, abs=1e-6)


def test_it_prints_and_travels_as_json_and_page(edited):
    _, found = edited
    text = str(found)
    for words in ("3 of 3 edits hold (100.0%); 0 did before", "Of 3 answers that should stay", "generalisation",
                  "Loss of the edits", "Reliability by the edit's place", "rate 0.05, 3 a step"):  # fmt: skip
        assert words in text
    data = json.loads(json.dumps(plain(found.to_dict()), allow_nan=False))
    assert data["schema"] == "pairtune.edit/1" and data["edits"][0]["prompt"]["said"] == "red"
    assert found.html().startswith("<!doctype html>")
    assert set(found.metrics) >= {"reliability", "locality", "general loss after"}


def test_what_is_not_there_is_said(edited):
    pair, _ = edited
    rows = [{"prompt": "the cat is", "target": "big"}, {"prompt": "cat is", "target": "blue"}]
    found = measure_edits(pair, rows, general=GENERAL)
    assert found.generalisation is None and found.locality is None
    text = str(found)
    assert "Not measured, as no edit has it: rephrase, locality" in text
    assert "said red" in text and "facts:2: 'cat is' becomes 'blue', and 'big' by facts:1" in text


def test_a_model_without_edits_or_words_is_refused(tiny_llama, tiny_bert):
    with pytest.raises(MissingView, match="has no delta yet"):
        measure_edits(Pair(Base.load(tiny_llama)), ROWS)
    with pytest.raises(InputError, match="what a causal language model writes"):
        measure_edits(Pair(Base.load(tiny_bert)), ROWS)
