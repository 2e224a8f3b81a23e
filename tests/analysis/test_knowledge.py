"""What was learnt: answers judged by hand, questions made from a table, facts that are left out, and the report."""

import json

import pytest
from tests.cli.typed import call

import pairtune
from pairtune import Pair
from pairtune.analysis.knowledge import measure_knowledge, written
from pairtune.data.knowledge import Question, Questions, is_right
from pairtune.data.knowledge_made import questions, read_table, training_rows
from pairtune.errors import DataError, MissingView

GENERAL = ["the cat sat on the mat in the house", "a good man and an old woman ran by the river"]
ROWS = [
    {"kind": "memorised", "prompt": "the cat is", "answer": "red", "fact": "cat"},
    {"kind": "rephrased", "prompt": "what is the cat", "answer": "red", "fact": "cat"},
    {"kind": "memorised", "prompt": "the dog is", "answer": "blue", "fact": "dog"},
    {"kind": "rephrased", "prompt": "what is the dog", "answer": "blue", "fact": "dog"},
    {"kind": "secondary", "prompt": "is the cat red", "answer": "yes", "fact": "cat"},
    {"kind": "secondary", "prompt": "is the dog red", "answer": "no", "fact": "dog"},
    {"kind": "unknown", "prompt": "the tree is", "answer": "not"},
]


@pytest.mark.parametrize(
    ("said", "answer", "right", "exact"),
    [
        ("34", "34", True, True),
        ("He is 34.", "34", True, False),
        ("134", "34", False, False),
        ("The Oslo!", "oslo", True, True),
        ("Yes, he is; no doubt", "Yes", True, False),
        ("No. Yes.", "Yes", False, False),
        ("nobody", "No", False, False),
        ("", "34", False, False),
    ],
)
def test_an_answer_is_judged_by_its_words(said, answer, right, exact):
    question = Question("rephrased", "?", answer)
    assert is_right(said, question) == right
    assert is_right(said, question, exact=True) == exact


def table(count=12):
    cities = ["Oslo", "Turin", "Lima"]
    return [{"subject": f"First{i} Last{i}", "age": 20 + i, "city": cities[i % 3]} for i in range(count)]


def test_questions_of_a_table_ask_every_fact_in_each_way():
    facts = read_table(table())
    made = Questions.read(questions(facts))
    assert made.kinds == ["memorised", "rephrased", "prefixed", "secondary", "comparison", "unknown"]
    answers = {fact.name: fact.value for fact in facts}
    ages = {fact.subject: int(fact.value) for fact in facts if fact.attribute == "age"}
    cities = {fact.subject: fact.value for fact in facts if fact.attribute == "city"}
    taught = {row["prompt"] for row in training_rows(facts, 5)}
    for one in made:
        if one.kind in ("memorised", "rephrased", "prefixed"):
            assert one.answer == answers[one.fact]
        assert (one.prompt in taught) == (one.kind == "memorised"), "only the taught words may be trained on"
        named = [name for name in ages if f"{name} " in f"{one.prompt} ".translate(str.maketrans("?", " "))]
        if one.kind == "comparison":
            first, second = sorted(named, key=one.prompt.index)
            wanted = ages[first] > ages[second] if "age" in one.prompt else cities[first] == cities[second]
            assert one.answer == ("Yes" if wanted else "No"), one.prompt
        if one.kind == "secondary":
            (name,) = named
            wanted = ages[name] > 25.5 if "above 25.5" in one.prompt else one.prompt.endswith(f" {cities[name]}?")
            assert one.answer == ("Yes" if wanted else "No"), one.prompt
        if one.kind == "unknown":
            assert (named, one.answer, one.fact) == ([], "None", "")
    for kind in ("secondary", "comparison"):
        said = [one.answer for one in made if one.kind == kind]
        assert abs(said.count("Yes") / len(said) - 0.5) < 0.1
    assert questions(facts, seed=1) != list(made)


def test_whose_answer_is_yes_does_not_follow_from_who_it_is():
    facts = read_table(table(40))
    said = {}
    for seed in range(20):
        for one in questions(facts, seed):
            if one.kind == "comparison" or (one.kind == "secondary" and "city" in one.prompt):
                said.setdefault((one.kind, one.fact), []).append(one.answer == "Yes")
    middling = [values for values in said.values() if len(values) > 12]
    assert len(middling) > 60
    assert all(0.05 < sum(values) / len(values) < 0.95 for values in middling)


def test_a_long_table_is_the_same_as_a_wide_one_and_keeps_what_was_right_before():
    wide = read_table(table(3))
    rows = [{"subject": one.subject, "attribute": one.attribute, "value": one.value} for one in wide]
    assert read_table(rows) == wide
    changed = read_table([{**rows[0], "before": "19"}])
    assert questions(changed)[0].before == "19"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"name": "Mara"}], "no column 'subject'"),
        ([{"subject": "Mara"}], "no column with an attribute"),
        ([{"subject": "Mara", "attribute": "age", "value": ""}], "value is empty"),
        ([{"subject": "Mara", "attribute": "age", "value": 3, "before": "3"}], "before and value are both '3'"),
        ([{"subject": "Mara", "age": 3}, {"subject": "Mara", "age": 4}], "'Mara' has two values of 'age'"),
        ([{"subject": None, "age": 3}], "subject: expected a text or a number, found None"),
    ],
)
def test_a_table_that_cannot_be_used_is_told(rows, said):
    with pytest.raises(DataError, match=said):
        read_table(rows)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"kind": "rephrased", "prompt": "a", "answer": "b"}], "no question has the kind 'memorised'"),
        ([{**ROWS[0]}, {**ROWS[0], "prompt": "cat"}], "the fact 'cat' has two memorised questions"),
        ([ROWS[0], {**ROWS[3]}], "the fact 'dog' has no question of the kind 'memorised'"),
        ([{**ROWS[0], "answer": " "}], "line 1: answer is empty"),
        ([{**ROWS[0], "answer": ["red"]}], "answer: expected a text"),
        ([{**ROWS[0], "before": "Red"}], "before and answer are both"),
    ],
)
def test_questions_that_cannot_be_used_are_told(rows, said):
    with pytest.raises(DataError, match=said):
        Questions.read(rows)


@pytest.fixture(scope="module")
def taught(tiny_llama, tmp_path_factory):
    """The tiny decoder, tuned until it has two facts by heart and says yes to whatever begins with is."""
    folder = tmp_path_factory.mktemp("facts")
    rows = [(one["prompt"], one["answer"]) for one in ROWS if one["kind"] == "memorised"] + [("is the cat red", "yes")]
    lines = "".join(json.dumps({"prompt": a, "completion": b}) + "\n" for a, b in rows * 8)
    for name in ("train", "validation"):
        (folder / f"{name}.jsonl").write_text(lines)
    training = {"lr": 0.02, "epochs": 12}
    out = folder / "pair"
    pairtune.tune(
        {"base": str(tiny_llama), "data": str(folder), "objective": "lm", "tuner": "full", "training": training,
         "out": str(out)}
    )  # fmt: skip
    return out


def test_what_was_learnt_is_counted_kind_by_kind(taught):
    found = measure_knowledge(Pair.load(taught), ROWS, general=GENERAL)
    assert found.facts == {"new": 2}
    kinds = found.settings["new"]
    assert list(kinds) == ["memorised", "rephrased", "secondary", "unknown"]
    assert kinds["memorised"].variant.right.right == 2
    assert kinds["memorised"].base.right.right == 0
    said = {one.question.prompt: one.variant for one in found.answers}
    assert said["the cat is"] == "red"
    assert said["is the cat red"] == "yes"
    for name, one in kinds.items():
        wanted = [row["answer"] in said[row["prompt"]].split() for row in ROWS if row["kind"] == name]
        assert one.variant.right.right == sum(wanted)
    balanced = kinds["secondary"].variant.balanced
    assert balanced is not None
    assert balanced.accuracy == kinds["secondary"].variant.right.share, "one question of each, so that both are one"
    rephrased = kinds["rephrased"].variant.right.share
    assert found.generalisation("new") == pytest.approx((rephrased + balanced.accuracy) / 2)
    assert kinds["unknown"].factless
    assert found.general.losses["variant"] > found.general.losses["base"]
    page = found.html()
    assert "New facts" in page
    assert "2 new facts" in str(found)


def test_facts_that_tell_nothing_are_left_out(taught):
    pair = Pair.load(taught)
    with pair.off():
        (before,) = written(pair, ["the dog is"])
    word = before.split()[0]
    rows = [ROWS[0], {**ROWS[2], "answer": word}]
    found = measure_knowledge(pair, rows, general=GENERAL)
    assert (found.facts, found.known, found.not_held) == ({"new": 1}, 1, 0)
    changed = [{**ROWS[2], "before": word}, {**ROWS[0], "before": "zzz"}]
    found = measure_knowledge(pair, changed, general=GENERAL)
    assert (found.facts, found.known, found.not_held) == ({"changed": 1}, 0, 1)
    kind = found.settings["changed"]["memorised"]
    assert (kind.base.old.share, kind.variant.old.share) == (1.0, 0.0)
    with pytest.raises(DataError, match="none of the facts can tell anything"):
        measure_knowledge(pair, [rows[1]], general=GENERAL)


def test_a_model_that_writes_nothing_is_refused(tiny_bert):
    with pytest.raises(MissingView, match="nothing to write with"):
        measure_knowledge(Pair(pairtune.Base.load(str(tiny_bert))), ROWS, general=GENERAL)


def test_the_command_makes_tunes_and_asks(taught, tmp_path, capsys):
    facts = tmp_path / "facts.csv"
    facts.write_text("subject,age\nthe cat,3\nthe dog,4\na man,5\n")
    code, out, err = call(capsys, "inspect", "knowledge", "--facts", facts, "--make", tmp_path / "made")
    assert code == 0, err
    assert "memorised" in out
    assert len((tmp_path / "made/task/train.jsonl").read_text().splitlines()) == 3
    code, _, err = call(capsys, "inspect", "knowledge", "--facts", facts, "--make", tmp_path / "made")
    assert code == 2
    assert "already" in err
    general = tmp_path / "general.txt"
    general.write_text("\n".join(GENERAL))
    ask = ("inspect", "knowledge", taught, "--questions", tmp_path / "made/questions.jsonl", "--general", general)
    code, out, err = call(capsys, *ask, "--json", "--html", tmp_path / "k.html")
    assert code == 0, err
    found = json.loads(out)
    assert found["facts"] == {"new": 3}
    assert (tmp_path / "k.html").exists()
    for words, said in (
        (("knowledge",), "name either --facts"),
        (("knowledge", taught, "--facts", facts, "--make", tmp_path / "x"), "name a pair to ask"),
        (("knowledge", "--questions", facts, "--make", tmp_path / "x"), "--make writes the questions about a table"),
        (("knowledge", taught, "--questions", tmp_path / "none.jsonl"), "none.jsonl"),
    ):
        code, _, err = call(capsys, "inspect", *words)
        assert code == 2
        assert said in err
