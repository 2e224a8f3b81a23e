"""Contributions sum to the score, and stand where their tokens stand."""

import pytest
from tests.ood.pairs import TEXTS, causal, classifier, task

from pairtune.errors import MissingView
from pairtune.ood.explain import explain
from pairtune.ood.scoring import Scorer

NAMES = [
    "log-ratio:sum", "log-ratio:token", "log-ratio:base", "log-ratio:answer", "log-ratio:both:token",
    "log-ratio:answer-given-question", "likelihood:sum", "likelihood:token", "likelihood:base", "length",
]  # fmt: skip


@pytest.fixture(scope="module")
def pair(tiny_llama):
    return causal(tiny_llama)


@pytest.mark.parametrize("name", NAMES)
def test_contributions_sum_to_the_score(pair, name):
    scorer = Scorer(pair, [name], new_tokens=5)
    for one, found in zip(explain(scorer, name, TEXTS), scorer.stream(TEXTS), strict=True):
        assert sum(token.contribution for token in one.tokens) == pytest.approx(one.score, abs=1e-5)
        assert one.score == pytest.approx(found.scores[name], abs=1e-4)


def test_spans_cut_the_tokens_out_of_the_text(pair):
    text, answer = "who is the  old man?", "the man, a big one"
    scorer = Scorer(pair, ["log-ratio:both"])
    (found,) = explain(scorer, "log-ratio:both", [(text, answer)])
    assert [token.part for token in found.tokens] == ["question"] * 6 + ["answer"] * 6
    for token in found.tokens:
        source = text if token.part == "question" else answer
        assert source[token.start : token.end] == token.token
    assert [token.token for token in found.tokens][:6] == ["who", "is", "the", "old", "man", "?"]
    (alone,) = explain(Scorer(pair, ["log-ratio"]), "log-ratio", [text])
    assert [token.token for token in alone.tokens] == ["who", "is", "the", "old", "man", "?"]


def test_a_score_that_is_no_sum_over_tokens_is_refused(tiny_bert):
    scorer = Scorer(classifier(tiny_bert), ["msp"], task=task())
    with pytest.raises(MissingView, match="msp is no sum over tokens.*log-ratio"):
        list(explain(scorer, "msp", TEXTS))
