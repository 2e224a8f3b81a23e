"""What is reported before training, with counts and places; and that good data are not complained about."""

from tests.data.files import folder, rows

from pairtune.data.checks import check, report
from pairtune.data.task import Task

GOOD = {"train": rows(60), "valid": rows(30, start=60), "test": rows(30, start=100)}


def findings(tmp_path, settings=None, **splits):
    """(severity, message, places) of a task with these splits laid over good ones."""
    task = Task.load(folder(tmp_path, **{**GOOD, **splits}), **(settings or {}))
    return [
        (one.severity, one.message, [place.replace(f"{tmp_path}/", "") for place in one.places]) for one in check(task)
    ]


def test_good_data_give_no_finding(tmp_path):
    assert findings(tmp_path, ood_far=rows(30, start=200)) == []
    assert report([]) == "nothing suspicious was found in the data"


def test_labels_that_are_never_trained_on(tmp_path):
    splits = {"test": [*rows(30, start=100), {"text": "moo", "label": "Dog"}]}
    message = "the label 'Dog' is in test but never in train; did you mean dog?"
    assert ("error", message, ["test.jsonl:31: Dog"]) in findings(tmp_path, **splits)
    gone = [one for one in findings(tmp_path, **splits) if "never in validation" in one[1]]
    assert gone == []  # it is not in train either
    given = findings(tmp_path, {"labels": ["cat", "dog", "Dog", "cow"]}, **splits)
    assert [severity for severity, text, _ in given if "'Dog' is in test" in text] == ["warning"]
    assert any("2 labels ('Dog', 'cow') are in the label list but never in train" in text for _, text, _ in given)


def test_labels_that_a_split_lacks(tmp_path):
    three = rows(60, labels=["cat", "dog", "cow"])
    found = findings(tmp_path, train=three)
    assert ("warning", "the label 'cow' is in train but never in validation", []) in found
    assert ("warning", "the label 'cow' is in train but never in test", []) in found


def test_ood_labels_that_the_task_does_not_have(tmp_path):
    far = [*rows(40, start=200), {"text": "a", "label": "oos"}, {"text": "b", "label": "oos"}]
    (found,) = findings(tmp_path, ood_far=far)
    assert found == (
        "warning",
        "ood/far: 2 of 42 rows have labels that the task does not have: oos; such rows count as unlabelled",
        ["ood/far.jsonl:41", "ood/far.jsonl:42"],
    )


def test_empty_texts(tmp_path):
    empty = [{"text": " ", "label": "cat"}, *rows(59), {"text": "", "label": "cat"}]
    assert ("warning", "train: 2 of 61 texts are empty", ["train.jsonl:1", "train.jsonl:61"]) in findings(
        tmp_path, train=empty
    )
    nothing = [{"text": "", "label": label} for label in ["cat", "dog"] * 20]
    assert ("error", "test: 40 of 40 texts are empty") in [one[:2] for one in findings(tmp_path, test=nothing)]


def test_empty_texts_to_write(tmp_path):
    splits = {name: [{"text": row["text"], "summary": row["text"]} for row in lines] for name, lines in GOOD.items()}
    splits["train"][4]["summary"] = ""
    (found,) = findings(tmp_path, {"kind": "seq2seq"}, **splits)
    assert found == ("warning", "train: 1 of 60 texts to write is empty", ["train.jsonl:5"])


def test_texts_of_train_in_another_split_and_repetitions(tmp_path):
    test = [*rows(30, start=100), GOOD["train"][7], GOOD["train"][9]]
    found = findings(tmp_path, test=test, train=[*GOOD["train"], GOOD["train"][2]], ood_far=GOOD["train"][:30])
    assert (
        "warning",
        "test: 2 of 32 texts are also in train",
        ["test.jsonl:31 = train.jsonl:8", "test.jsonl:32 = train.jsonl:10"],
    ) in found
    assert ("warning", "ood/far: 30 of 30 texts are also in train") in [one[:2] for one in found]
    assert ("warning", "train: 1 of 61 texts is a repetition", ["train.jsonl:61 = train.jsonl:3"]) in found


def test_pairs_are_the_same_only_when_both_texts_are(tmp_path):
    splits = {
        name: [{"premise": "always this", "hypothesis": row["text"], "label": row["label"]} for row in lines]
        for name, lines in GOOD.items()
    }
    assert findings(tmp_path, **splits) == []


def test_one_text_with_two_labels(tmp_path):
    row = GOOD["train"][7]
    found = findings(tmp_path, test=[*rows(30, start=100), {**row, "label": "cat"}])
    assert (
        "warning",
        "1 text has another label than the same text elsewhere",
        ['train.jsonl:8: "dog", test.jsonl:31: "cat"'],
    ) in found


def test_extreme_imbalance_and_a_single_class(tmp_path):
    many = [*rows(200, labels=["cat"], start=200), {"text": "woof", "label": "dog"}]
    found = findings(tmp_path, train=many)
    assert ("warning", "extreme imbalance in train: 'cat' has 200 rows, 'dog' has 1", []) in found
    found = findings(tmp_path, valid=rows(30, labels=["cat"], start=60))
    assert ("warning", "every row of validation has the label 'cat': there is nothing to tell apart", []) in found
    found = findings(tmp_path, train=rows(60, labels=["cat"]))
    assert found[0][:2] == ("error", "every row of train has the label 'cat': there is nothing to tell apart")


def test_numbers_that_are_all_the_same(tmp_path):
    splits = {name: [{**row, "label": 1.5} for row in lines] for name, lines in GOOD.items()}
    found = findings(tmp_path, {"kind": "regression"}, **splits)
    assert [severity for severity, *_ in found] == ["error", "warning", "warning"]


def test_tiny_splits_and_no_train(tmp_path):
    found = findings(tmp_path, train=rows(12), test=rows(8, start=100))
    assert ("warning", "train has only 12 rows: too few to learn from", []) in found
    assert ("warning", "test has only 8 rows: a metric on it moves in steps of 12.5 %", []) in found
    task = Task.load(splits={"test": str(tmp_path / "test.jsonl")})
    assert "there is no train split (splits: test)" in report(check(task))


def test_multilabel_and_conversations_are_checked_too(tmp_path):
    splits = {name: [{"text": row["text"], "tags": [row["label"]]} for row in lines] for name, lines in GOOD.items()}
    splits["test"].append({"text": GOOD["train"][0]["text"], "tags": ["dog", "cat"]})
    found = findings(tmp_path, **splits)
    assert [text for _, text, _ in found] == [
        "test: 1 of 31 texts is also in train",
        "1 text has another label than the same text elsewhere",
    ]


def test_empty_conversations(tmp_path):
    def chat(text):
        return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]}

    splits = {name: [chat(row["text"]) for row in lines] for name, lines in GOOD.items()}
    assert findings(tmp_path, **splits) == []
    splits["train"][3] = chat(" ")
    assert findings(tmp_path, **splits) == [("warning", "train: 1 of 60 texts is empty", ["train.jsonl:4"])]
