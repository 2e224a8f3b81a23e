"""What every tuner that speaks promises: it is scored and it writes as its logits say, however that is computed."""

import pytest
import torch
from tests.tuners.test_contract import batch, case, install, load, step

from pairtune.pair.greedy import greedy
from pairtune.pair.outputs import Outputs
from pairtune.pair.pair import evaluating

__all__ = ["case"]  # the fixture


def test_the_log_ratio_is_that_of_its_logits(case):
    """Scores are taken in ways of their own, the head over slices of positions: they must be what the model says."""
    tuner, _, folder = case
    base, installed, pair = install(tuner, folder)
    step(installed, base.family)
    if "tokens" not in pair.views:
        pytest.skip("it has no tokens view")
    inputs = batch(base.family)
    shift = 0 if base.family == "seq2seq" else 1
    ids = inputs["decoder_input_ids" if base.family == "seq2seq" else "input_ids"]
    labels = ids.masked_fill(ids == 0, -100)
    labels[:, :shift] = -100
    with torch.no_grad(), evaluating(pair.model):
        sides = [Outputs.of(pair.model(**inputs)).logits]
        with pair.off():
            sides.append(pair.model(**inputs).logits)
    places = slice(sides[0].shape[1] - ids.shape[1], sides[0].shape[1] - shift)  # learnt positions come first
    said = [side[:, places].float().log_softmax(-1) for side in sides]
    targets = labels[:, shift:].clamp(min=0).unsqueeze(-1)
    expected = (said[0] - said[1]).gather(-1, targets).squeeze(-1) * (labels[:, shift:] >= 0)
    found = pair.log_ratio({**inputs, "labels": labels})
    torch.testing.assert_close((found.variant - found.base)[:, shift:], expected, atol=2e-4, rtol=1e-4)
    assert expected.abs().max() > 1e-4


def test_it_writes_what_its_logits_say(case):
    tuner, _, folder = case
    if "tokens" not in tuner.provides or load(folder).family == "encoder":
        pytest.skip("it has no tokens view")
    base, installed, pair = install(tuner, folder)
    step(installed, base.family)
    row = [1, 5, 6, 12]
    written = greedy(pair, [row], 2, 0)[0]
    assert written
    for place in range(len(written)):
        inputs = {"input_ids": torch.tensor([row + written[:place]])}
        if base.family == "seq2seq":
            start = [base.model.config.decoder_start_token_id]
            inputs = {"input_ids": torch.tensor([row]), "decoder_input_ids": torch.tensor([start + written[:place]])}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.no_grad(), evaluating(pair.model):
            logits = pair.model(**inputs).logits[0, -1]
        assert logits[written[place]] > logits.max() - 1e-4
