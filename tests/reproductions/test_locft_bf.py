"""The reproduction of LocFT-BF: its world, its rule, and the whole path at a tiny size."""

import numpy as np
import pytest

from pairtune.data.facts import Facts
from pairtune.errors import PairtuneError
from pairtune.reproductions import frame
from pairtune.reproductions.frame import Results
from pairtune.reproductions.locft import world
from pairtune.reproductions.locft.arms import BF, BF_EQUAL, DF, EQUAL, FULL, LOCFT, METHODS, WORST, Bench

REPRODUCTION = frame.load("locft-bf")
TINY = {"seeds": 1, "edits": 6, "held": 3, "epochs": 2, "batch": 2, "rates": {way: [1e-2] for way in METHODS.values()}}


def test_the_world_gives_everybody_one_answer_to_each_question():
    facts = world.facts(10)
    assert len(facts) == 60 == len({fact.prompt for fact in facts}) == len({fact.rephrase for fact in facts})
    assert facts == world.facts(10) != world.facts(10, seed=1)
    assert all(fact.answer not in fact.others and len(fact.others) >= 12 for fact in facts)
    assert not Facts.read([{"prompt": f.prompt, "target": f.answer, "rephrase": f.rephrase} for f in facts]).conflicts()


def test_edits_differ_by_seed_and_their_order_is_drawn(base, tmp_path):
    known = world.facts(4)
    bench = Bench(Results.open(tmp_path, {}), TINY, base, known[:6], known[6:9], known[9:], [])
    one, same, other = (bench.facts(bench.edited, seed) for seed in (0, 0, 1))
    assert list(one) == list(same) != list(other)
    answers = {fact.prompt: fact.answer for fact in known}
    assert all(fact.target != answers[fact.prompt] for fact in one)
    assert {fact.prompt for fact in one} == {fact.prompt for fact in other} == {fact.prompt for fact in known[:6]}
    assert not {text for fact in one for text in fact.locality} & {fact.prompt for fact in known[:9]}


def test_a_base_that_knows_too_little_is_refused(base, tmp_path, monkeypatch):
    monkeypatch.setattr(world, "teach", lambda *_: base)
    with pytest.raises(PairtuneError, match="the base knows 0 facts in both ways, 10 are needed; raise tokens"):
        Bench.of(Results.open(tmp_path, {}), TINY | {"people": 1})


def test_the_whole_path(base, tmp_path, monkeypatch):
    known = world.facts(3)
    texts = ["Once upon a time there was a fox.", "The king went home.", "It rained all day."]

    def bench(results, settings):
        return Bench(results, settings, base, known[:6], known[6:9], known[9:], texts)

    monkeypatch.setattr(Bench, "of", bench)
    report = frame.execute(REPRODUCTION, tmp_path / "work", TINY)
    assert set(report["numbers"]) == {*METHODS, WORST, EQUAL, BF_EQUAL} | {
        f"{arm}, {third} third" for arm in (DF, LOCFT) for third in ("first", "last")
    }
    work = report["choices"]["work"]
    assert work[DF]["0"]["updates"] == 12 and work[BF]["0"]["steps"] == 12 and work[LOCFT]["0"]["steps"] == 6
    assert work[EQUAL] == work[LOCFT]
    assert len(report["choices"]["validation score by place"]) == 3
    assert len(report["parts"]) == 15 and report["verdict"] in ("holds", "holds in part", "does not hold", "undecided")
    assert set(report["choices"]["note's rule"]["edits by arm"]) == {*METHODS, EQUAL, BF_EQUAL, WORST}
    again = frame.execute(REPRODUCTION, tmp_path / "work", TINY)
    assert again["numbers"] == report["numbers"]


def test_the_note_s_rule_reads_the_means(tmp_path):
    from pairtune.reproductions.locft_bf import notes_rule

    results = Results.open(tmp_path, {})
    shares = {LOCFT: 1.0, EQUAL: 0.9, DF: 0.3, BF: 0.8, BF_EQUAL: 0.7, FULL: 1.0, "BF, LoRA": 0.9, WORST: 0.6}
    for arm, share in shares.items():
        right = np.arange(10) < 10 * share
        kept = np.zeros(10) if arm == FULL else np.ones(10)
        rise = {DF: 0.8, EQUAL: 0.2}.get(arm, 0.25)
        results.add(arm, 0, {"edits": right, "rephrases": right, "kept": kept, "general": np.full(4, -rise)})
    found = notes_rule(results)
    assert found["reliability near 1"] and found["localised as reliable as full, better locality"]
    assert found["general loss, DF's rise in LocFT-BF's at equal work"] == 4.0
    assert not found["falsified: DF as reliable at equal work"] and not found["falsified: batches explain nothing"]
    results.add(DF, 0, results.outcomes[LOCFT][0])
    assert notes_rule(results)["falsified: DF as reliable at equal work"]
