"""The reproduction of FineTuneBench: its people, its rule, and the whole path at a tiny size."""

from pairtune.data.knowledge_made import questions
from pairtune.reproductions import frame
from pairtune.reproductions.finetunebench import ALL, ARMS, BASE, CHANGED, GUESS, NINE, NOTHING, PLAIN
from pairtune.reproductions.frame import Results
from pairtune.reproductions.taught import world
from pairtune.reproductions.taught.arms import FACTS, GENERAL, MADE_UP, OLD, OTHERWISE, Bench

REPRODUCTION = frame.load("finetunebench")
RATES = {name: [1e-3] for name in ("full", "lora 8", "lora 64")}
TINY = {"seeds": 1, "batch": 12, "known": 4, "plain": 4, "people": 4, "comparisons": 4, "answer": 2, "rates": RATES}


def test_people_share_no_name_and_changed_facts_have_other_values():
    known = world.people(30, 0)
    new = world.people(30, 7, known)
    assert len(known) == 180 == len({one.name for one in known})
    words = [word for one in known[::6] + new[::6] for word in one.subject.split()]
    assert len(words) == len(set(words)) == 120
    other = world.changed(known, 3)
    assert other == world.changed(known, 3) != world.changed(known, 4)
    for one, was in zip(other, known, strict=True):
        assert (one.name, one.before) == (was.name, was.value)
        assert one.value != was.value


def test_the_base_reads_every_wording_of_some_and_the_plain_ones_of_others(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(world.pretrained, "write_corpus", lambda _, texts: written.extend(texts))
    monkeypatch.setattr(world.pretrained, "pretrain", lambda *_: tmp_path)
    monkeypatch.setattr(world, "stories", lambda *_: ["a story"])
    known, plain = world.people(4, 0), world.people(4, 1)
    world.teach(tmp_path, known, plain, {"drawings": 2, "tellings": 3, "characters": 1, "tokens": 1, "shape": []})
    assert "a story" in written
    for one in questions(known):
        assert written.count(f"{one.prompt}\n{one.answer}") >= 3
    said = set(written)
    for one in questions(plain):
        assert (f"{one.prompt}\n{one.answer}" in said) == (one.kind == "memorised")


def test_the_whole_path(base, tmp_path, monkeypatch):
    monkeypatch.setattr(Bench, "base", base)
    monkeypatch.setattr(Bench, "texts", ["Once upon a time there was a fox.", "The king went home."])
    report = frame.execute(REPRODUCTION, tmp_path / "work", TINY)
    named = {name.partition(":")[0] for name in report["numbers"]}
    assert named == {*ARMS, BASE, PLAIN, GUESS, NINE, NOTHING}
    stored = Results.open(tmp_path / "work", report["settings"])
    outcomes = stored.outcomes[ALL][0]
    assert {split: len(values) for split, values in outcomes.items()} == {
        "memorised": 24, "rephrased": 24, "prefixed": 24, "secondary": 24, "comparison": 4, OTHERWISE: 52,
        MADE_UP: 24, GENERAL: 2,
    }  # fmt: skip
    assert len(stored.outcomes[CHANGED][0][OLD]) == 24
    assert stored.outcomes[f"{ALL}: memorised"][0][FACTS] == outcomes["memorised"]
    monkeypatch.setattr(Bench, "run", None)  # nothing is run again
    again = frame.execute(REPRODUCTION, tmp_path / "work", TINY)
    assert again["numbers"] == report["numbers"]
