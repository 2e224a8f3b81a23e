"""Facts files: what is read, which rows are refused and where, what contradicts what, and the ids that are learnt."""

import json

import pytest
from tests.conftest import make_tokenizer

from pairtune.data.fact_tokens import FactTokens
from pairtune.data.facts import Fact, Facts, normalised
from pairtune.errors import DataError, InputError


def written(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_rows_of_a_file_in_their_order_with_their_places(tmp_path):
    rows = [
        {"prompt": "the cat is ", "target": " red", "rephrase": ["a cat is", " "], "locality": "the dog is", "id": 7},
        {"prompt": "the man is", "target": "old", "rephrase": None},
        {"prompt": "the cat is", "target": "red", "rephrase": ["a cat is", "my cat is"]},
    ]
    facts = Facts.read(written(tmp_path / "facts.jsonl", rows))
    assert list(facts) == [
        Fact("the cat is", "red", ("a cat is", "my cat is"), ("the dog is",), f"{tmp_path}/facts.jsonl:1"),
        Fact("the man is", "old", (), (), f"{tmp_path}/facts.jsonl:2"),
    ]
    assert facts.repeated == [f"{tmp_path}/facts.jsonl:3"] and facts.unused == ["id"]
    (tmp_path / "facts.csv").write_text("prompt,target,locality\nthe cat is,red,\n")
    assert next(iter(Facts.read(tmp_path / "facts.csv"))).locality == ()
    assert list(Facts.read(list(facts)))[1].target == "old"


def test_every_bad_row_is_named_by_its_line(tmp_path):
    rows = [
        {"prompt": "a", "target": "b"},
        {"prompt": "a"},
        {"prompt": "", "target": "b"},
        {"prompt": "a", "target": 3},
        {"prompt": "a", "target": "b", "rephrase": [1]},
        {"prompt": "a", "target": "b", "locality": {"prompt": "x"}},
        {"prompt": "a", "target": "b\nc"},
    ]
    with pytest.raises(DataError) as refused:
        Facts.read(written(tmp_path / "facts.jsonl", rows))
    said = str(refused.value).splitlines()
    assert said[0] == f"{tmp_path}/facts.jsonl: 6 rows cannot be used:"
    assert [line.split(":")[0].strip() for line in said[1:]] == [f"line {n}" for n in range(2, 8)]
    expected = ("found nothing", "is empty", "'3' (int)", "'1' (int)", "dict", "line break")
    for line, words in zip(said[1:], expected, strict=True):
        assert words in line
    with pytest.raises(DataError, match=r"no column 'target'.*did you mean targets"):
        Facts.read([{"prompt": "a", "targets": "b"}])
    with pytest.raises(InputError, match="there is no file"):
        Facts.read(tmp_path / "nowhere.jsonl")


def test_contradictions_are_found_across_prompts_rephrases_and_what_shall_stay():
    rows = [
        {"prompt": "The cat is", "target": "red", "rephrase": "a man says the cat is", "locality": "the dog is"},
        {"prompt": "the dog is", "target": "Big!", "locality": "the house is"},
        {"prompt": "cat is", "target": "blue"},
        {"prompt": "dog is", "target": "big"},
        {"prompt": "he says", "target": "no", "rephrase": "man says cat is"},
    ]
    facts = Facts.read(rows)
    found = {(one.kind, one.first, one.second) for one in facts.conflicts()}
    assert found == {("two targets", 0, 2), ("rephrase", 0, 4), ("locality", 1, 0)}
    said = [one.said(facts) for one in facts.conflicts()]
    assert said[0] == "facts:3: 'cat is' becomes 'blue', and 'red' by facts:1"
    assert said[-1] == "facts:1: 'the dog is' shall keep its answer, and facts:2 makes it 'Big!'"
    assert not Facts.read(rows[1:2] + rows[3:4]).conflicts()


def test_some_are_spread_over_the_file():
    facts = Facts.read([{"prompt": str(i), "target": "x"} for i in range(10)])
    assert [fact.prompt for fact in facts.spread(4)] == ["0", "3", "6", "9"]
    assert list(facts.spread(10)) == list(facts) and facts.spread(4).fingerprint != facts.fingerprint


def test_the_metric_s_spelling():
    assert normalised("  The U.S.,  an Area! ") == "us area"
    assert normalised("theatre") == "theatre"
    assert normalised("?!") == "?!" != normalised("...")


def test_targets_follow_a_space_and_end_and_prompts_begin_as_in_generation():
    tokenizer = make_tokenizer()
    words = tokenizer.get_vocab()
    ((prompt, target),) = FactTokens(tokenizer, 64).pairs([Fact("the cat is", "red")])
    assert (
        prompt == [1, words["the"], words["cat"], words["is"]] == FactTokens(tokenizer, 64).prompts(["the cat is"])[0]
    )
    assert target == [words["red"], 2]
    with pytest.raises(DataError, match="facts:4: the tokenizer writes the target 'purple' as '<unk>'"):
        FactTokens(tokenizer, 64).pairs([Fact("the cat is", "purple", place="facts:4")])


def test_a_tokenizer_of_pieces_writes_every_target_back():
    from pairtune.pair import hub
    from pairtune.zoo import path

    tokenizer = hub.load_tokenizer(path("tiny-lm"))
    facts = [Fact("The capital of France is", "Lyon"), Fact("Q: who?\nA:", "St. Louis, Mo."), Fact("x", "Zürich 日本")]
    for fact, (prompt, target) in zip(facts, FactTokens(tokenizer, 64).pairs(facts), strict=True):
        assert target[-1] == tokenizer.eos_token_id and target.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(target[:-1]) == f" {fact.target}"
        whole = tokenizer(f"{fact.prompt} {fact.target}")["input_ids"]
        assert prompt + target[:-1] == whole, "generation begins with the prompt alone, and training must meet it there"
