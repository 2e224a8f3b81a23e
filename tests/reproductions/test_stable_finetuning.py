"""What the reproduction of stable fine-tuning measures with: the old optimizer, spreads, its tasks and arms."""

import numpy as np
import pytest
import torch

from pairtune.reproductions import stable_finetuning as reproduction
from pairtune.reproductions.frame import Results
from pairtune.reproductions.stable.adam import uncorrected_adam
from pairtune.reproductions.stable.spread import ratio_of_spreads, steadiness, table
from pairtune.reproductions.stable.tasks import SETTINGS, task_of
from pairtune.training.config import RunConfig


def steps(weight, gradients, corrected):
    """AdamW in float64 by hand, with the learning rates of a falling schedule."""
    first = second = np.zeros_like(weight)
    for t, gradient in enumerate(gradients, 1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        m, v = (first / (1 - 0.9**t), second / (1 - 0.999**t)) if corrected else (first, second)
        weight = weight - 0.1 / t * (m / (np.sqrt(v) + 1e-3) + 0.5 * weight)
    return weight


def torch_steps(start, gradients):
    weight = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.AdamW([weight], lr=0.1, eps=1e-3, weight_decay=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 / (done + 1))
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        schedule.step()
    return weight.detach().numpy(), optimizer.param_groups[0]


def test_adam_without_bias_correction_is_the_equation_and_leaves_no_trace():
    generator = np.random.default_rng(0)
    start, gradients = generator.normal(size=7), generator.normal(size=(6, 7))
    with uncorrected_adam():
        found, group = torch_steps(start, gradients)
    np.testing.assert_allclose(found, steps(start, gradients, corrected=False), rtol=1e-10)
    assert (group["eps"], group["weight_decay"], group["lr"]) == (1e-3, 0.5, pytest.approx(0.1 / 7))
    plain, _ = torch_steps(start, gradients)
    np.testing.assert_allclose(plain, steps(start, gradients, corrected=True), rtol=1e-10)
    assert np.abs(found - plain).max() > 0.01


def test_the_ratio_of_spreads_and_its_interval():
    generator = np.random.default_rng(0)
    wide, narrow = generator.normal(0, 2.0, 200), generator.normal(5, 1.0, 200)
    ratio, low, high = ratio_of_spreads(narrow, wide)
    assert ratio == pytest.approx(narrow.std(ddof=1) / wide.std(ddof=1))
    assert low < 0.5 < high < 0.7
    found = table({"a": wide[:4], "b": wide[:4] / 4 + 1}, "a")
    assert found["b"]["ratio of sd"] == pytest.approx(0.25)
    assert found["b"]["interval"] == pytest.approx([0.25, 0.25])
    gap = found["b"]["mean"] - found["a"]["mean"]
    assert found["b"]["standard errors"] == pytest.approx(gap / (found["a"]["sd"] / 2))
    assert "ratio of sd" not in found["a"]


def test_steadiness_falls_with_the_distance_from_the_median():
    np.testing.assert_allclose(steadiness([0.7, 0.5, 0.8]), [0.0, -0.2, -0.1])


def test_every_arm_is_a_run_and_every_part_compares_arms_that_are_run():
    for constraint in reproduction.ARMS.values():
        RunConfig.of({"base": "zoo:minilm", "data": "d", "tuner": "full", "constraint": constraint})
    run = {reproduction.arm_of(arm, one.name) for one in SETTINGS for arm in reproduction.arms_of(one)}
    compared = {arm for part in reproduction.REPRODUCTION.parts for arm in (part.method, part.baseline)}
    run |= {reproduction.arm_of(reproduction.COSINE, "64 pairs")}
    assert {arm.removeprefix("steadiness of ") for arm in compared} <= run
    assert all(one.rates_of in {first.name for first in SETTINGS} for one in SETTINGS)


@pytest.mark.data
def test_the_sizes_of_a_task_share_validation_and_test(tmp_path):
    settings = {"data": None, "validation": 30, "test": 40}
    results = Results(tmp_path)
    tasks = {one.name: task_of(results, one, settings) for one in SETTINGS}
    for one in SETTINGS:
        sizes = {name: len(split) for name, split in tasks[one.name].splits.items()}
        assert sizes == {"train": one.train, "validation": 30, "test": 40}
    small, large = tasks["64 sentences"], tasks["250 sentences"]
    assert [row["text"] for row in small.split("test")] == [row["text"] for row in large.split("test")]
    seen = {row["text"] for row in large.split("train")}
    assert {row["text"] for row in small.split("train")} <= seen
    grades = {task_row["score"] for task_row in tasks["64 pairs"].split("train")}
    assert grades == {0.0, 0.5, 1.0}
