"""Every loss against a direct float64 evaluation, and the two properties that accumulation stands on."""

import pytest
import torch
from torch.nn import functional as F

from pairtune import registry
from pairtune.errors import InputError
from pairtune.objectives import misfit, pick
from pairtune.objectives import token_nll as token_nll_file
from pairtune.objectives.classification import Classification
from pairtune.objectives.lm import LanguageModel
from pairtune.objectives.multilabel import Multilabel
from pairtune.objectives.regression import Regression
from pairtune.objectives.seq2seq import Seq2Seq
from pairtune.objectives.token_nll import summed_nll
from pairtune.pair.outputs import Outputs

LM_TUNER = frozenset({"tokens", "labels", "scale"})


def out(*views):
    return Outputs(logits=views[0][0], views=list(views))


def labelled(kind, count=6, classes=5):
    torch.manual_seed(1)
    if kind == "multilabel":
        return {"labels": (torch.rand(count, classes) > 0.5).float()}
    if kind == "regression":
        return {"labels": torch.randn(count)}
    return {"labels": torch.randint(classes, (count,))}


def test_classification_with_smoothing_fits_every_view_with_its_weight():
    batch = labelled("classification")
    first, second = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    loss = Classification(label_smoothing=0.1).loss(None, batch, out((first, 0.25), (second, 2.0)))
    expected = 0.0
    for logits, weight in ((first, 0.25), (second, 2.0)):
        log_p = logits - logits.logsumexp(-1, keepdim=True)
        own = log_p[torch.arange(6), batch["labels"]]
        expected += weight * -(0.9 * own + 0.1 * log_p.mean(-1)).sum()
    assert loss.total.item() == pytest.approx(float(expected), rel=1e-6)
    assert loss.units == 6
    assert loss.parts["accuracy"] == (first.argmax(-1) == batch["labels"]).sum()


def test_multilabel_is_the_mean_over_classes_summed_over_items():
    batch, logits = labelled("multilabel"), torch.randn(6, 5, dtype=torch.float64)
    p = logits.sigmoid()
    y = batch["labels"].double()
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).mean(-1).sum()
    assert Multilabel().loss(None, batch, out((logits, 1.0))).total.item() == pytest.approx(float(expected), rel=1e-6)


def test_regression_refuses_a_head_of_another_width():
    batch, logits = labelled("regression"), torch.randn(6, 1)
    expected = (logits[:, 0] - batch["labels"]).square().sum()
    assert Regression().loss(None, batch, out((logits, 1.0))).total.item() == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(InputError, match="12 outputs for 6 labels"):
        Regression().loss(None, batch, out((torch.randn(6, 2), 1.0)))


@pytest.mark.parametrize("at_once", [1, 40, 1 << 22])
def test_token_loss_and_its_gradient_equal_the_direct_ones_for_any_slice_size(monkeypatch, at_once):
    monkeypatch.setattr(token_nll_file, "AT_ONCE", at_once)
    torch.manual_seed(0)
    logits = torch.randn(3, 7, 11, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (3, 7))
    targets[0, 3:] = -100
    targets[2] = -100
    total = summed_nll(logits, targets)
    expected = F.cross_entropy(logits.reshape(-1, 11), targets.reshape(-1), reduction="sum")
    torch.testing.assert_close(total, expected)
    mine = torch.autograd.grad(total * 1.7, logits)[0]
    theirs = torch.autograd.grad(expected * 1.7, logits)[0]
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_token_loss_of_half_precision_logits_is_computed_in_float32():
    torch.manual_seed(0)
    logits = (torch.randn(2, 300, 50) * 4).bfloat16().requires_grad_()
    targets = torch.randint(50, (2, 300))
    total = summed_nll(logits, targets)
    exact = F.cross_entropy(logits.detach().double().reshape(-1, 50), targets.reshape(-1), reduction="sum")
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(float(exact), rel=1e-6)
    total.backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


def test_causal_labels_are_scored_one_position_ahead_and_encoder_decoder_labels_in_place():
    labels = torch.tensor([[4, 2, -100, 3], [-100, 1, 1, -100]])
    logits = torch.randn(2, 4, 6)
    log_p = logits.double().log_softmax(-1)
    causal = LanguageModel()
    assert causal.units({"labels": labels}) == 4  # the first label of a row is never predicted
    expected = -(log_p[0, 0, 2] + log_p[0, 2, 3] + log_p[1, 0, 1] + log_p[1, 1, 1])
    assert causal.loss(None, {"labels": labels}, out((logits, 1.0))).total.item() == pytest.approx(
        float(expected), rel=1e-6
    )
    seq2seq = Seq2Seq()
    assert seq2seq.units({"labels": labels}) == 5
    expected = -(log_p[0, 0, 4] + log_p[0, 1, 2] + log_p[0, 3, 3] + log_p[1, 1, 1] + log_p[1, 2, 1])
    assert seq2seq.loss(None, {"labels": labels}, out((logits, 1.0))).total.item() == pytest.approx(
        float(expected), rel=1e-6
    )


@pytest.mark.parametrize("name", sorted(registry.methods("objectives")))
def test_every_loss_is_a_sum_so_that_a_batch_may_be_cut(name):
    """Contract of the protocol: loss(batch) = loss(first rows) + loss(other rows), and so for units and parts."""
    objective = registry.build("objectives", name, {})
    kind = sorted(objective.kinds)[0]
    if objective.unit == "token":
        batch = {"labels": torch.randint(8, (6, 5))}
        logits = torch.randn(6, 5, 8, dtype=torch.float64)
    else:
        batch = labelled(kind)
        logits = torch.randn(6, 1 if kind == "regression" else 5, dtype=torch.float64)
    whole = objective.loss(None, batch, out((logits, 0.5)))
    parts = [
        objective.loss(None, {k: v[rows] for k, v in batch.items()}, out((logits[rows], 0.5)))
        for rows in (slice(0, 2), slice(2, 6))
    ]
    assert whole.units == objective.units(batch) == sum(part.units for part in parts)
    torch.testing.assert_close(whole.total, parts[0].total + parts[1].total)
    for key, value in whole.parts.items():
        torch.testing.assert_close(value, parts[0].parts[key] + parts[1].parts[key])


@pytest.mark.parametrize(
    ("kind", "family", "provides", "expected"),
    [
        ("classification", "encoder", LM_TUNER, "classification"),
        ("classification", "causal", LM_TUNER, "lm"),
        ("classification", "causal", {"labels"}, "classification"),
        ("classification", "seq2seq", LM_TUNER, "seq2seq"),
        ("multilabel", "encoder", LM_TUNER, "multilabel"),
        ("regression", "encoder", LM_TUNER, "regression"),
        ("lm", "causal", LM_TUNER, "lm"),
        ("lm", "encoder", LM_TUNER | {"masked"}, "mlm"),
        ("seq2seq", "seq2seq", LM_TUNER, "seq2seq"),
    ],
)
def test_auto_picks_by_task_family_and_what_the_tuner_provides(kind, family, provides, expected):
    assert pick(kind, family, provides) == expected


def test_impossible_combinations_are_refused_by_name():
    with pytest.raises(InputError, match="no objective fits a task of kind lm on encoder models"):
        pick("lm", "encoder", LM_TUNER)
    assert (
        misfit("lm", "lm", "causal", {"labels"})
        == "objective lm needs tokens, which the tuner does not provide on this base"
    )
    assert "serves causal models" in str(misfit("lm", "lm", "encoder", LM_TUNER))
    assert "serves regression tasks" in str(misfit("regression", "lm", "causal", LM_TUNER))
    assert misfit("lm", "lm", "causal", LM_TUNER) is None


def test_text_and_completion_are_weighted_apart():
    torch.manual_seed(2)
    logits = torch.randn(2, 6, 9, dtype=torch.float64)
    ids = torch.randint(9, (2, 6))
    labels = ids.clone()
    labels[:, 0] = -100
    labels[1, 5] = -100
    target = torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    batch = {"labels": labels, "target": target}
    objective = LanguageModel(text_weight=0.25)
    found = objective.loss(None, batch, out((logits, 1.0)))
    nll = -logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    # The first row has a completion of two tokens behind a text of three scored ones; the second is text alone.
    text, completion, plain = nll[0, :3].sum(), nll[0, 3:].sum(), nll[1, :4].sum()
    assert found.total.item() == pytest.approx(float(0.25 * text + completion + plain), rel=1e-6)
    assert found.units == pytest.approx(0.25 * 3 + 2 + 4)
    assert found.parts["text"].item() == pytest.approx(float(text), rel=1e-6)
    even = LanguageModel().loss(None, batch, out((logits, 1.0)))
    assert even.total.item() == pytest.approx(float(nll[0].sum() + plain), rel=1e-6)
    alone = LanguageModel(text_weight=0).loss(None, batch, out((logits, 1.0)))
    assert alone.total.item() == pytest.approx(float(completion + plain), rel=1e-6)
