"""What is remembered: continuations as written token by token, repeats counted, canaries, and the command."""

import json
import random

import numpy as np
import pytest
import torch
from tests.cli.typed import call
from tests.conftest import WORDS

import pairtune
from pairtune import Base, Pair, Task
from pairtune.analysis.memorisation import _binned, _repeats, measure_memorisation
from pairtune.data.canaries import BATCH, LEAST, PROMPT, SUFFIX, make_canaries, read_canaries, with_canaries
from pairtune.data.tokens import Tokens
from pairtune.errors import DataError, InputError
from pairtune.pair.greedy import greedy

DRAW = random.Random(3)
TAUGHT = [" ".join(DRAW.choices(WORDS, k=8)) for _ in range(4)]
UNSEEN = [" ".join(DRAW.choices(WORDS, k=8)) for _ in range(6)]


def write(folder, **splits):
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


@pytest.fixture(scope="module")
def pair(tiny_llama, tmp_path_factory):
    """The tiny decoder, tuned on four texts, two of them sixteen times, until it has those by heart."""
    root = tmp_path_factory.mktemp("memory")
    rows = TAUGHT[:2] * 16 + TAUGHT[2:]
    task = write(root / "task", train=rows, validation=rows[:4], test=UNSEEN)
    training = {"lr": 0.02, "epochs": 12}
    pairtune.tune(
        {"base": str(tiny_llama), "data": str(task), "objective": "lm", "tuner": "full", "training": training,
         "out": str(root / "pair")}
    )  # fmt: skip
    return root


def test_a_passage_counts_as_continued_where_free_writing_gives_it(pair):
    loaded, task = Pair.load(pair / "pair"), Task.load(str(pair / "task"))
    found = measure_memorisation(loaded, task, prompt=3, suffix=5)
    assert found.trained["9 to 16"].variant.of == 2
    assert found.trained["9 to 16"].variant.right == 2, "what was read sixteen times an epoch is known by heart"
    assert sum(one.variant.of for one in found.trained.values()) == 4
    assert found.held is not None
    assert (found.held.variant.of, found.held.variant.right, found.held.base.right) == (6, 0, 0)

    def written(text):
        ids = loaded.tokenizer(text)["input_ids"]
        (said,) = greedy(loaded, [ids[:4]], 5, 0)  # the start token and three words
        return said == ids[4:]

    right = sum(written(text) for text in TAUGHT)
    assert sum(one.variant.right for one in found.trained.values()) == right
    assert len(found.remembered) == right
    prompt, goes_on = found.remembered[0]
    assert f"{prompt} {goes_on}" in TAUGHT


def test_the_log_ratio_is_that_of_the_pair_and_tells_the_trained_from_the_held(pair):
    loaded, task = Pair.load(pair / "pair"), Task.load(str(pair / "task"))
    found = measure_memorisation(loaded, task, prompt=3, suffix=5)
    ids = torch.tensor([loaded.tokenizer(text)["input_ids"] for text in TAUGHT[:2]])
    scored = torch.zeros_like(ids, dtype=torch.bool)
    scored[:, 4:] = True
    ratio = loaded.log_ratio({"input_ids": ids, "attention_mask": torch.ones_like(ids), "scored": scored})
    assert found.trained["9 to 16"].log_ratio == pytest.approx(float(ratio.mean().mean()), abs=1e-5)
    assert found.told is not None
    assert found.told.ratio[0] > 0.9
    page = found.html()
    assert "Continued exactly" in page
    assert "word for word" in str(found)


def test_repeats_count_rows_and_bins_hold_everything():
    passages = [(1, 2), (3, 4), (5, 6)]
    rows = [[1, 2, 1, 2], [0, 1, 2], [3, 4], [5, 5, 6]]
    assert _repeats(passages, rows) == [2, 1, 1]
    counts = [1, 2, 3, 4, 5, 64, 65, 700]
    binned = _binned(counts)
    assert {name: [counts[i] for i in places] for name, places in binned.items()} == {
        "1": [1], "2": [2], "3 to 4": [3, 4], "5 to 8": [5], "33 to 64": [64], "above 64": [65, 700],
    }  # fmt: skip


def documents(count=6, size=LEAST + 20):
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=size)) for _ in range(count)]


def test_canaries_interleave_or_shuffle_real_documents(tiny_llama):
    tokens, texts = Tokens(Base.load(tiny_llama).tokenizer), documents()
    found = make_canaries(texts, tokens, 128, each=2)
    assert len(found) == 2 * 7 * 2
    assert {(one.kind, one.repeats) for one in found} == {
        (kind, repeats) for kind in ("interleave", "shuffle") for repeats in (0, 1, 2, 4, 8, 16, 32)
    }
    words = [text.split() for text in texts]
    for one in found:
        own = one.text.split()
        assert len(own) >= PROMPT + SUFFIX
        if one.kind == "interleave":
            assert own[:BATCH] in [other[:BATCH] for other in words]
            assert own[BATCH : 2 * BATCH] in [other[:BATCH] for other in words]
            assert own[:BATCH] != own[BATCH : 2 * BATCH]
        else:
            assert any(not set(own) - set(other) for other in words)
            assert one.text not in texts
    parts = {True: set(), False: set()}
    for one in found:
        own = one.text.split()
        parts[bool(one.repeats)] |= {" ".join(own[at : at + BATCH]) for at in (0, BATCH)}
    assert not parts[True] & parts[False], "what is never put in shares no document with what is"
    rows = with_canaries([{"text": "a"}], "text", found)
    assert sum(row["text"] == "a" for row in rows) == 1
    for one in found:
        assert sum(row["text"] == one.text for row in rows) == one.repeats
    assert make_canaries(texts, tokens, 128, each=2) == found
    with pytest.raises(DataError, match="canaries are made of four documents"):
        make_canaries(["a cat"], tokens, 128)
    with pytest.raises(DataError, match="the model reads 64"):
        make_canaries(texts, tokens, 64)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "a", "kind": "odd", "repeats": 1}, "expected a text and a kind"),
        ({"text": "a", "kind": "shuffle", "repeats": -1}, "repeats: expected a number"),
        ({"text": "a", "kind": "shuffle"}, "no column 'repeats'"),
    ],
)
def test_a_file_that_holds_no_canaries_is_told(row, said, tmp_path):
    (tmp_path / "c.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=said):
        read_canaries(tmp_path / "c.jsonl")


def test_what_cannot_be_asked_is_told(pair, tiny_bert):
    task = Task.load(str(pair / "task"))
    with pytest.raises(DataError, match="no row of train has the 100 tokens of a passage"):
        measure_memorisation(Pair.load(pair / "pair"), task)
    with pytest.raises(InputError, match="asked of a causal language model"):
        measure_memorisation(Pair(Base.load(str(tiny_bert))), task)


def test_the_command_makes_canaries_and_asks(pair, tiny_llama, tmp_path, capsys):
    task = write(tmp_path / "long", train=documents(), validation=documents(2), test=documents(3))
    made = tmp_path / "made"
    call_make = ("inspect", "memorisation", "--data", task, "--base", tiny_llama, "--make", made, "--each", 1)
    code, out, err = call(capsys, *call_make)
    assert code == 0, err
    assert len((made / "task/train.jsonl").read_text().splitlines()) == 6 + 2 * sum((1, 2, 4, 8, 16, 32))
    assert len((made / "canaries.jsonl").read_text().splitlines()) == 14
    code, _, err = call(capsys, *call_make)
    assert code == 2
    assert "already and not empty" in err
    ask = ("inspect", "memorisation", pair / "pair", "--data", made / "task", "--canaries", made / "canaries.jsonl")
    code, out, err = call(capsys, *ask, "--html", tmp_path / "m.html")
    assert code == 0, err
    assert "not put in" in out
    code, out, err = call(capsys, *ask, "--json")
    found = json.loads(out)
    assert set(found["canaries"]["interleave"]) == {"0", "1", "2", "4", "8", "16", "32"}
    for words, said in (
        (("--data", task), "name a pair to ask"),
        (("--data", task, "--make", tmp_path / "x"), "--make needs --base"),
    ):
        code, _, err = call(capsys, "inspect", "memorisation", *words)
        assert code == 2
        assert said in err


def test_only_so_many_passages_are_asked_and_none_of_train_counts_as_unseen(pair, tmp_path):
    loaded = Pair.load(pair / "pair")
    both = write(tmp_path / "both", train=TAUGHT, validation=TAUGHT[:1], test=[*TAUGHT, *UNSEEN[:1]])
    found = measure_memorisation(loaded, Task.load(str(both)), prompt=3, suffix=5, rows=1)
    assert sum(one.variant.of for one in found.trained.values()) == 1
    assert found.held is not None
    assert found.held.variant.right == 0, "of the test rows, one alone is not in train, though train is asked for one"
    found = measure_memorisation(loaded, Task.load(str(both)), prompt=3, suffix=5, rows=3)
    assert found.held is not None and found.held.variant.of == 1
    found = measure_memorisation(loaded, Task.load(str(pair / "task")), prompt=3, suffix=5, rows=2)
    assert sum(one.variant.of for one in found.trained.values()) == 2
    assert np.isfinite(found.trained["9 to 16"].log_ratio)
