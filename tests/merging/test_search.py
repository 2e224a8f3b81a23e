"""The search over merges: its space, its surrogate, its memory on disk, and that nothing it says is made up."""

import json

import numpy as np
import pytest
import torch
from tests.merging.models import configured

from pairtune.errors import FormatError, InputError, PairtuneError
from pairtune.merging.engine.by_layer import Choice, Layer, layer_of
from pairtune.merging.engine.in_memory import combine
from pairtune.merging.inputs.sources import Source
from pairtune.merging.search import forest
from pairtune.merging.search.loop import explore, search, search_merge
from pairtune.merging.search.models import Merger
from pairtune.merging.search.pareto import front, scalarised
from pairtune.merging.search.space import Space, shares

NAMES = [f"model.layers.{i}.w" for i in range(5)] + ["embed.weight"]
SPACE = Space.of(("base", "a", "b"), NAMES, base=0)


def seen(choices):
    """A cost with one best share of each model for each group: what a search can learn."""
    aims = np.linspace(0.2, 0.8, len(choices))
    found = np.stack([shares(one, 3) for one in choices])
    return -float(((found[:, 1] - aims) ** 2 + (found[:, 2] - aims[::-1]) ** 2).mean())


def test_groups_are_the_blocks_and_the_rest():
    assert layer_of("model.layers.11.mlp.up_proj.weight") == Layer("model.layers", 11)
    assert layer_of("encoder.layer.0.attention.0.weight") == Layer("encoder.layer", 0)
    assert layer_of("embed.weight") == Layer("rest", 0)
    assert [group.name for group in SPACE.groups] == [*(f"model.layers.{i}" for i in range(5)), "rest"]
    assert SPACE.granularities == (1, 2, 4)
    assert [group.name for group in SPACE.leaders(4)] == ["model.layers.0", "model.layers.4", "rest"]


def test_a_coarse_point_gives_blocks_in_a_row_one_choice():
    point = forest.draw(SPACE, np.random.default_rng(0), 2)
    choices = SPACE.choices(point)
    assert choices[0] == choices[1] and choices[2] == choices[3]
    assert len(set(SPACE.choices(forest.draw(SPACE, np.random.default_rng(0), 1)))) > 4


def test_every_pool_member_and_usual_merge_begins_the_search():
    start = SPACE.initial()
    made = {name: set(SPACE.choices(point)) for name, point in start.items()}
    assert made["only b"] == {Choice("keep", (2,), (1.0,))}
    assert made["uniform soup"] == {Choice("linear", (0, 1, 2), (1.0, 1.0, 1.0))}
    assert made["task arithmetic"] == {Choice("task-arithmetic", (1, 2), (0.4, 0.4))}
    assert made["ties"] == {Choice("ties", (1, 2), (1.0, 1.0), (("density", 0.2), ("scale", 1.0)))}
    assert made["slerp, halves"] == {Choice("slerp", (1, 2), (1.0, 1.0), (("t", 0.5),))}
    found = explore(SPACE, seen, trials=len(start), seed=0)
    assert [trial.name for trial in found.trials] == list(start)


@pytest.mark.parametrize("operator", [None, "linear"])
def test_points_stay_in_the_space_and_the_forest_sees_what_they_do(operator):
    space = SPACE if operator is None else Space.of(("base", "a", "b"), NAMES, base=0, operators=[operator])
    generator = np.random.default_rng(0)
    for _ in range(50):
        point = forest.draw(space, generator)
        assert set(point) == set(space.distributions(point))
        assert all(one._contains(one.to_internal_repr(point[n])) for n, one in space.distributions(point).items())
        table = forest.features(space, point)
        new, near = forest._neighbour(space, point, table, generator)
        assert set(new) == set(space.distributions(new))
        np.testing.assert_array_equal(near, forest.features(space, new))
        again = forest._regrouped(space, point, 1)
        assert space.choices(again) == space.choices(point)


def test_the_expected_improvement_is_its_integral():
    mean, deviation, lowest = np.array([0.3, -0.2]), np.array([0.5, 0.1]), 0.1
    drawn = mean + deviation * np.random.default_rng(0).normal(size=(400_000, 2))
    expected = np.maximum(lowest - drawn, 0).mean(0)
    np.testing.assert_allclose(forest.expected_improvement(mean, deviation, lowest), expected, atol=2e-3)


def test_the_forest_beats_random_search_at_equal_trials():
    best = {
        one: np.array([explore(SPACE, seen, trials=30, sampler=one, seed=seed).best_so_far()[-1] for seed in range(3)])
        for one in ("forest", "random")
    }
    assert (best["forest"] > best["random"]).all()


def test_the_estimator_of_optuna_asks_within_the_space():
    found = explore(SPACE, seen, trials=12, sampler="tpe")
    for trial in found.trials:
        known = SPACE.distributions(trial.point)
        assert set(trial.point) == set(known)
    assert {trial.name for trial in found.trials if not trial.initial} == {"tpe"}


def test_a_stopped_search_goes_on_as_if_it_had_not_been(tmp_path):
    whole = explore(SPACE, seen, trials=14, seed=3)
    calls = []

    def stopping(choices):
        calls.append(choices)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return seen(choices)

    with pytest.raises(KeyboardInterrupt, match="10 trials are kept"):
        explore(SPACE, stopping, trials=14, seed=3, folder=tmp_path)
    with open(tmp_path / "search.jsonl", "ab") as file:
        file.write(b'{"number": 10, "na')  # torn by a kill
    again = explore(SPACE, seen, trials=14, seed=3, folder=tmp_path)
    assert [one.point for one in again.trials] == [one.point for one in whole.trials]
    assert again.best == whole.best
    assert len((tmp_path / "search.jsonl").read_text().splitlines()) == 15
    assert len(explore(SPACE, seen, trials=16, seed=3, folder=tmp_path).trials) == 16


def test_another_search_and_a_damaged_journal_are_refused(tmp_path):
    explore(SPACE, seen, trials=7, seed=3, folder=tmp_path)
    with pytest.raises(InputError, match="another search.*seed"):
        explore(SPACE, seen, trials=7, seed=4, folder=tmp_path)
    lines = (tmp_path / "search.jsonl").read_text().splitlines()
    (tmp_path / "search.jsonl").write_text("\n".join([lines[0], '{"number": 0}', *lines[2:]]) + "\n")
    with pytest.raises(FormatError, match="line 2"):
        explore(SPACE, seen, trials=7, seed=3, folder=tmp_path)


def test_trials_at_the_same_time_are_all_there(tmp_path):
    found = explore(SPACE, seen, trials=12, jobs=3, folder=tmp_path)
    assert [trial.number for trial in found.trials] == list(range(12))
    kept = [json.loads(line) for line in (tmp_path / "search.jsonl").read_text().splitlines()[1:]]
    assert sorted(one["number"] for one in kept) == list(range(12))


def test_merges_without_a_score_are_passed_over():
    def broken(choices):
        return float("nan") if choices[0].operator != "keep" else seen(choices)

    found = explore(SPACE, broken, trials=14)
    assert found.trials[found.best].scores["score"] == max(
        seen(SPACE.choices(one.point)) for one in found.trials if SPACE.choices(one.point)[0].operator == "keep"
    )
    with pytest.raises(PairtuneError, match="finite"):
        explore(SPACE, lambda choices: float("nan"), trials=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"trials": 3}, "not enough"), ({"trials": None}, "needs an end"), ({"sampler": "grid"}, "forest, tpe, random")],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        explore(SPACE, seen, **options)


def test_a_space_needs_two_models_and_known_methods():
    with pytest.raises(InputError, match="two models"):
        Space.of(("a",), NAMES)
    with pytest.raises(InputError, match="there is no method"):
        Space.of(("a", "b"), NAMES, operators=["soup"])
    with pytest.raises(InputError, match="--base"):
        Space.of(("a", "b"), NAMES, based=False, operators=["ties"])
    assert Space.of(("a", "b"), NAMES, based=False).operators == ("linear", "slerp", "keep")


def test_the_time_is_a_budget():
    assert len(explore(SPACE, seen, trials=None, minutes=0.0).trials) == len(SPACE.initial())


def test_several_objectives_are_scalarised_and_their_front_is_kept():
    costs = np.array([[0.0, 4.0], [1.0, 1.0], [2.0, 2.0], [np.nan, 0.0], [1.0, 1.0]])
    assert front(costs) == [0, 1, 4]
    drawn = [int(np.argmin(scalarised(costs[:3], np.random.default_rng(i)))) for i in range(40)]
    assert set(drawn) == {0, 1}  # other weightings look at other ends of the front
    generator = np.random.default_rng(5)
    w = np.random.default_rng(5).dirichlet(np.ones(2))
    scaled = np.array([[0, 1], [0.5, 0], [1, 1 / 3]])
    expected = (w * scaled).max(1) + 0.05 * (w * scaled).sum(1)
    np.testing.assert_allclose(scalarised(costs[:3], generator), expected)

    def two(choices):
        share = shares(choices[0], 3)
        return {"one": -abs(share[1] - 1), "other": -abs(share[2] - 1)}

    found = explore(SPACE, two, trials=20)
    ends = {found.trials[i].name for i in found.front}
    assert {"only a", "only b"} <= ends
    worst = explore(SPACE, two, trials=20, select="worst")
    values = [min(trial.scores.values()) for trial in worst.trials]
    assert worst.best == int(np.argmax(values))


def pool():
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(6, 8, generator=generator) for name in NAMES}
    return base, [{n: t + 0.3 * torch.randn(6, 8, generator=generator) for n, t in base.items()} for _ in range(2)]


def test_the_merged_model_of_a_point_is_that_of_the_methods():
    base, (a, b) = pool()
    models = [base, a, b]
    merger = Merger([Source(str(i), None, one) for i, one in enumerate(models)], Source("base", None, base), SPACE)
    choices = (
        Choice("linear", (0, 2), (0.2, 0.6)),
        Choice("slerp", (1, 2), (1.0, 1.0), (("t", 0.7),)),
        Choice("task-arithmetic", (1, 2), (0.3, 0.9)),
        Choice("ties", (1, 2), (1.0, 1.0), (("density", 0.3), ("scale", 0.8))),
        Choice("keep", (2,), (1.0,)),
        Choice("keep", (0,), (1.0,)),
    )
    found = merger.tensors(choices)
    expected = [
        combine([base, b], configured("linear"), [0.2, 0.6]),
        combine([a, b], configured("slerp", t=0.7)),
        combine([a, b], configured("task-arithmetic"), [0.3, 0.9], base),
        combine([a, b], configured("ties", density=0.3, scale=0.8), base=base),
        b,
        base,
    ]
    for name, one in zip(NAMES, expected, strict=True):
        assert torch.equal(found[name], one[name]), name
    assert set(found) == set(NAMES)


def test_merged_groups_are_kept_up_to_a_limit():
    base, (a, b) = pool()
    sources = [Source(str(i), None, one) for i, one in enumerate([base, a, b])]
    merger = Merger(sources, Source("base", None, base), SPACE, limit=8 * 6 * 8 * 4)
    first = tuple([Choice("linear", (1, 2), (1.0, 1.0))] * 6)
    one = merger.tensors(first)
    assert all(merger.tensors(first)[name] is one[name] for name in NAMES)
    other = (Choice("keep", (1,), (1.0,)), *first[1:])
    again = merger.tensors(other)
    assert again[NAMES[1]] is one[NAMES[1]] and torch.equal(again[NAMES[0]], a[NAMES[0]])
    merger.tensors(tuple([Choice("task-arithmetic", (1, 2), (0.1, 0.1))] * 6))
    assert merger._size <= merger.limit
    assert merger._size == sum(t.nbytes for kept in merger._kept.values() for t in kept.values())


def test_state_dicts_are_searched_as_they_are():
    base, (a, b) = pool()
    aim = {name: base[name] + 0.5 * (a[name] - base[name]) for name in NAMES}

    def near(tensors):
        return {name: -float((tensors[name] - aim[name]).pow(2).mean()) for name in NAMES[:2]}

    options = {"operators": ["linear", "task-arithmetic", "keep"], "trials": 12, "sampler": "random"}
    found, merged = search_merge({"base": base, "a": a, "b": b}, near, base="base", **options)
    assert near(merged) == found.trials[found.best].scores and found.objectives == NAMES[:2]
    assert len(found.trials) == 12 and {choice.operator for choice in found.choices} <= set(options["operators"])
    alone, kept = search_merge({"a": a, "b": b}, lambda tensors: -near(tensors)[NAMES[0]], trials=4)
    assert alone.space.operators == ("linear", "slerp", "keep") and set(kept) == set(NAMES)
    with pytest.raises(InputError, match="base: 'bas' is not in the pool; did you mean base"):
        search_merge({"base": base, "a": a}, near, base="bas")


def test_a_search_finds_the_merge_that_was_hidden():
    _, (a, b) = pool()
    hidden = {name: 0.7 * a[name] + 0.3 * b[name] for name in NAMES}
    space = Space.of("ab", NAMES, based=False, one_group=True)
    merger = Merger([Source(n, None, m) for n, m in (("a", a), ("b", b))], None, space)

    def near(tensors):
        return -float(sum((tensors[name] - hidden[name]).pow(2).mean() for name in NAMES))

    found = search(merger, near, trials=20, seed=1)
    assert near(merger.tensors(found.choices)) == found.trials[found.best].scores["score"]
    named = {trial.name: trial.scores["score"] for trial in found.trials if trial.initial}
    assert found.trials[found.best].scores["score"] > max(named.values())
