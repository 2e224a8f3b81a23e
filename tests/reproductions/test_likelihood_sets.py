"""The texts of the likelihood-ratio reproduction: nothing from outside is seen in tuning, nothing is on two sides."""

import numpy as np
import pytest

from pairtune.reproductions.frame import Results
from pairtune.reproductions.likelihood import sets, spam
from pairtune.reproductions.likelihood.bench import Bench
from pairtune.reproductions.likelihood.placement import areas


@pytest.fixture
def settings(data_folder):
    return {"data": str(data_folder), "train": 300, "validation": 40, "test": 120}


def sides(ground):
    return {
        "train": {row["text"] for row in ground.train},
        "validation": {row["text"] for row in ground.validation},
        "test": set(ground.test),
        **{name: set(texts) for name, texts in ground.ood.items()},
    }


@pytest.mark.data
@pytest.mark.parametrize("name", ["clinc", "banking", "newsgroups"])
def test_no_text_is_on_two_sides(settings, name):
    ground = getattr(sets, name)(settings)
    found = sides(ground)
    assert len(ground.train) == 300
    assert 100 < len(ground.test) <= 120
    tuned = found.pop("train") | found.pop("validation")
    for name, texts in found.items():
        assert texts, name
        assert not texts & tuned, name
    for name in ground.ood:
        assert not found[name] & found["test"], name


@pytest.mark.data
def test_the_outside_is_what_it_says(settings):
    rows = sets.rows_of(settings, "banking77", "train") + sets.rows_of(settings, "banking77", "test")
    intent = {row["text"].strip(): row["intent"] for row in rows}
    found = {name: {intent[text] for text in texts} for name, texts in sides(sets.banking(settings)).items()}
    held = found.pop("held")
    assert 10 < len(held) <= 19
    assert not held & set.union(*found.values())
    oos = {row["text"] for row in sets.rows_of(settings, "clinc150", "oos_test")}
    ground = sets.clinc(settings)
    assert set(ground.ood["oos"]) <= oos
    assert not oos & {row["text"] for row in ground.train + ground.validation}


@pytest.mark.data
def test_ham_and_spam(settings):
    ham, spam = sets.messages(settings)
    assert set(ham.test) <= set(spam.ood["ham"])
    assert set(spam.test) <= set(ham.ood["spam"])
    label = {row["text"].strip(): row["label"] for file in ("train", "test")
             for row in sets.rows_of(settings, "sms_spam", file)}  # fmt: skip
    assert {label[row["text"]] for row in ham.train + ham.validation} == {"ham"}
    assert {label[row["text"]] for row in spam.train + spam.validation} == {"spam"}
    assert {label[text] for text in ham.test} == {"ham"}


@pytest.mark.data
def test_far_texts_questions_and_pretraining_texts(settings):
    far = sets.far(settings)
    assert {len(texts) for texts in far.values()} == {120}
    assert all(1 <= len(text.split()) <= 3 for text in far["1-3 words"])
    ground = sets.arithmetic(settings)
    assert all("<<" not in row["answer"] and row["answer"] for row in ground.train)
    assert {name: len(texts) for name, texts in ground.ood.items() if len(texts) < 90} == {}
    assert not {row["question"] for row in ground.train} & set(ground.test)
    pieces = sets.broad(settings, 3_000_000)
    assert 2_900_000 < sum(map(len, pieces)) <= 3_000_000
    assert max(map(len, pieces)) <= 2000


def test_equal_texts_and_those_seen_are_left_out():
    found = sets.ground(["a", "b"], ["b", "c"], ["a", "c", "d"], {"far": ["d", "e"]})
    assert found.validation == [{"text": "c"}]
    assert found.test == ["d"]
    assert found.ood == {"far": ["e"]}
    assert sorted(sets.drawn(["x", "", "y", "x"])) == ["x", "y"]
    assert len(sets.drawn(map(str, range(50)), 7)) == 7
    assert sets.few_words("one two three four") == sets.few_words("one two three four")


@pytest.mark.data
def test_what_is_near_to_the_spam_variant_counts_as_spam(settings, tmp_path, monkeypatch):
    def scores(pair, task, arms, texts, most, **_):
        # Each variant finds its own kind near: low scores for its own, high ones for the other.
        levels = (0, 1) if task == "ham" else (1, 0)
        return [{arm: np.full(len(some), level) for arm in arms} for some, level in zip(texts, levels, strict=True)]

    for name in ("task", "variant", "saved"):
        value = property(lambda self: self.name) if name == "task" else lambda self, seed: self.name
        monkeypatch.setattr(Bench, name, value)
    monkeypatch.setattr(spam, "scores", scores)
    results = Results.open(tmp_path, {})
    spam.run(results, settings | {"seeds": 1, "max_length": 8}, results)
    found = areas(results, spam.SPLIT)
    assert {found[arm] for arm in (*spam.HAM, *spam.SPAM)} == {1.0}
