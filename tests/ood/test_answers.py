"""Questions and answers: the note's scores, one from another; what is cut; what the variant writes; conversations."""

import numpy as np
import pytest
import torch
from tests.ood.pairs import TEXTS, causal, changed

from pairtune.errors import BaseMismatch, DataError, InputError, MissingView
from pairtune.ood.inputs import Input
from pairtune.ood.scoring import Scorer, score
from pairtune.pair.base import Base

PAIRS = [
    ("who is the man by the river ?", "the old man"),
    ("a cat", "no"),
    ("what is on the mat ?", "the cat sat on the mat"),
    ("yes", "it was a big red dog in the house"),
]
FORMS = [f"log-ratio:{part}" for part in ("question", "answer", "both", "answer-given-question")]
TEMPLATE = (
    "{% for m in messages %}the {{ m.role }} : {{ m.content }} . {% endfor %}"
    "{% if add_generation_prompt %}he :{% endif %}"
)


@pytest.fixture(scope="module")
def pair(tiny_llama):
    return causal(tiny_llama)


def forms(pair, inputs, names=FORMS, **options):
    return Scorer(pair, names, **options).table(inputs)


def test_the_parts_are_the_papers_scores(pair):
    """Each from its own definition: ratios of texts that are scored alone."""
    found = forms(pair, PAIRS)
    assert np.allclose(found[FORMS[0]], score(pair, [q for q, _ in PAIRS]), atol=1e-5)
    assert np.allclose(found[FORMS[1]], score(pair, [a for _, a in PAIRS]), atol=1e-5)
    # The separator has no token for this tokenizer, so that question and answer tokenise as one text.
    assert np.allclose(found[FORMS[2]], score(pair, [f"{q} {a}" for q, a in PAIRS]), atol=1e-4)
    assert np.allclose(found[FORMS[3]], found[FORMS[2]] - found[FORMS[0]], atol=1e-4)
    assert np.abs(found[FORMS[3]]).min() > 1e-3


def test_both_conditional_parts_come_from_one_forward(pair, monkeypatch):
    calls = []
    plain = pair.log_ratio
    monkeypatch.setattr(pair, "log_ratio", lambda batch: calls.append(1) or plain(batch))
    forms(pair, PAIRS, FORMS[2:])
    assert len(calls) == 1


def test_alone_and_in_a_batch_agree(pair):
    together = forms(pair, PAIRS * 8)
    for i, one in enumerate(PAIRS):
        for name, values in forms(pair, [one]).items():
            assert values[0] == pytest.approx(together[name][i], abs=1e-4)


def test_the_separator_is_context_and_never_summed(pair):
    inputs = [("a cat", "the dog ran")]
    scorer = Scorer(pair, FORMS[2:])
    reader = scorer.batcher.reader
    reader.separator, reader._between = " . ", pair.tokenizer(" . ", add_special_tokens=False).input_ids
    found = scorer.table(inputs)
    ids = pair.tokenizer("a cat . the dog ran", return_tensors="pt", return_token_type_ids=False).input_ids
    ratio = pair.log_ratio({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).values[0]
    assert found[FORMS[3]][0] == pytest.approx(-float(ratio[-3:].sum()), abs=1e-4)
    assert found[FORMS[2]][0] == pytest.approx(-float(ratio.sum() - ratio[3]), abs=1e-4)


def test_a_long_question_loses_its_beginning_and_an_answer_nothing(pair):
    question = " ".join(["the cat sat on the mat and"] * 10)
    answer = "a good old dog"
    cut = " ".join(question.split()[-15:])
    found = forms(pair, [(question, answer)], FORMS[3:], max_length=20)[FORMS[3]][0]
    assert found == pytest.approx(forms(pair, [(cut, answer)], FORMS[3:])[FORMS[3]][0], abs=1e-4)
    assert found != pytest.approx(forms(pair, [(question, answer)], FORMS[3:])[FORMS[3]][0], abs=1e-3)
    with pytest.raises(DataError, match="the answer has 70 tokens, 19 fit"):
        forms(pair, [("a", question)], max_length=20)


def test_without_an_answer_the_variant_writes_one_greedily(pair):
    scorer = Scorer(pair, FORMS, new_tokens=6)
    open_ones = list(scorer.stream([q for q, _ in PAIRS]))
    for (question, _), one in zip(PAIRS, open_ones, strict=True):
        ids = pair.tokenizer(question, return_tensors="pt", return_token_type_ids=False).input_ids
        with torch.no_grad():
            for _ in range(6):
                new = pair.model(input_ids=ids).logits[0, -1].argmax()
                if new == pair.tokenizer.eos_token_id:
                    break
                ids = torch.cat([ids, new[None, None]], 1)
        written = ids[0, len(pair.tokenizer(question).input_ids) :]
        assert one.answer == pair.tokenizer.decode(written, skip_special_tokens=True)
        ratio = pair.log_ratio({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).values[0]
        expected = -float(ratio[-len(written) :].sum()) if len(written) else 0.0
        assert one.scores[FORMS[3]] == pytest.approx(expected, abs=1e-4)


def test_a_conversation_is_scored_without_its_template(pair):
    pair.tokenizer.chat_template = TEMPLATE
    try:
        turns = [{"role": "user", "content": "who is the man"}, {"role": "assistant", "content": "the old one"}]
        found = next(Scorer(pair, FORMS).stream([turns]))
        whole = "the user : who is the man . he : the old one"
        ids = pair.tokenizer(whole, return_tensors="pt", add_special_tokens=False).input_ids
        ratio = pair.log_ratio({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).values[0]
        assert found.scores[FORMS[0]] == pytest.approx(-float(ratio[3:7].sum()), abs=1e-4)
        assert found.scores[FORMS[3]] == pytest.approx(-float(ratio[-3:].sum()), abs=1e-4)
        assert found.scores[FORMS[2]] == pytest.approx(-float(ratio[3:7].sum() + ratio[-3:].sum()), abs=1e-4)
    finally:
        pair.tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        list(Scorer(pair, FORMS).stream([turns]))


def test_the_ratio_of_two_variants(pair, tiny_llama):
    other = causal(tiny_llama, seed=7)
    scorer = Scorer(pair, ["variant-ratio"], settings={"variant-ratio": {"other": "loaded already"}})
    scorer.detectors["variant-ratio"].use(other, pair)
    # Both ratios have the same base, which cancels.
    expected = np.array(score(pair, TEXTS)) - np.array(score(other, TEXTS))
    assert np.allclose(scorer.table(TEXTS)["variant-ratio"], expected, atol=1e-4)
    again = Scorer(pair, ["variant-ratio"], settings={"variant-ratio": {"other": "loaded already"}})
    again.detectors["variant-ratio"].use(pair, pair)
    assert not again.table(TEXTS)["variant-ratio"].any()


def test_variants_of_different_bases_have_no_ratio(pair, tiny_t5):
    scorer = Scorer(pair, ["variant-ratio"], settings={"variant-ratio": {"other": "loaded already"}})
    with pytest.raises(BaseMismatch, match="is not the base"):
        scorer.detectors["variant-ratio"].use(changed(Base.load(tiny_t5)), pair)


def test_an_encoder_decoder_scores_answers(tiny_t5):
    pair = changed(Base.load(tiny_t5))
    found = Scorer(pair, FORMS[3:]).table(PAIRS)[FORMS[3]]
    for (question, answer), value in zip(PAIRS, found, strict=True):
        source = pair.tokenizer(question, return_tensors="pt", return_token_type_ids=False)
        target = pair.tokenizer(answer, add_special_tokens=False, return_tensors="pt").input_ids
        sides = []
        for side in (True, False):
            with torch.no_grad():
                if side:
                    logits = pair.model(**source, labels=target).logits
                else:
                    with pair.off():
                        logits = pair.model(**source, labels=target).logits
            sides.append(logits.double().log_softmax(-1).gather(-1, target[..., None]).sum())
        assert value == pytest.approx(float(sides[1] - sides[0]), abs=1e-3)
    assert np.isfinite(Scorer(pair).table(["the cat", "a dog ran"])["log-ratio:answer-given-question:sum"]).all()
    with pytest.raises(MissingView, match="log-ratio:sum scores a text, to which an encoder-decoder.*these work: "):
        Scorer(pair, ["log-ratio:sum"])


def test_what_is_no_input_is_refused():
    for wrong in (5, None, ["a"], ("a", "b", "c"), ("a", 5), [{"role": "user"}]):
        with pytest.raises(DataError, match="expected a text, a pair"):
            Input.of(wrong)
