"""The reproduction of PaLM 2's part on memorisation: its data, its rule, and the whole path at a tiny size."""

import gzip
import json
import random

import pytest
from tests.conftest import WORDS

from pairtune.reproductions import frame
from pairtune.reproductions.frame import Results
from pairtune.reproductions.palm2 import CANARIES, LIKELIHOOD, ON, ONCE, RATIO, RISE, SEEDS, TUNED, _pieces

REPRODUCTION = frame.load("palm2")
TINY = {"seeds": 1, "train": 24, "each": 1, "characters": 500, "rows": 10}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two books of drawn words, as the data folder has them."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "gutenberg_stories").mkdir()
    draw = random.Random(0)
    for name in ("children_valid", "novels_valid"):
        with gzip.open(folder / "gutenberg_stories" / f"{name}.jsonl.gz", "wt") as file:
            file.write(json.dumps({"text": " ".join(draw.choices(WORDS, k=6000)) + "\n"}) + "\n")
    return folder


def test_pieces_have_one_length_and_none_stands_twice(data):
    pieces = _pieces({"data": str(data), "characters": 500})
    assert {len(piece) for piece in pieces} == {500}
    assert len(pieces) == len(set(pieces)) > 72


def test_the_whole_path(data, tiny_llama, tmp_path):
    settings = TINY | {"base": str(tiny_llama), "data": str(data)}
    report = frame.execute(REPRODUCTION, tmp_path / "work", settings)
    assert {TUNED, ONCE, ON, RATIO, LIKELIHOOD, RISE, f"{TUNED}, 0 times", f"{TUNED}, 32 times"} <= set(
        report["numbers"]
    )
    stored = Results.open(tmp_path / "work", report["settings"])
    assert len(stored.outcomes[TUNED][0][CANARIES]) == 12
    assert len(stored.outcomes[f"{TUNED}, 8 times"][0][CANARIES]) == 2
    assert -1 <= stored.outcomes[RISE][0][SEEDS][0] <= 1
    rows = [json.loads(line)["text"] for line in (tmp_path / "work/often/train.jsonl").open()]
    once = [json.loads(line)["text"] for line in (tmp_path / "work/once/train.jsonl").open()]
    assert len(rows) == 24 + 2 * sum((1, 2, 4, 8, 16, 32))
    assert set(rows) == set(once)
    assert len(once) == len(set(once)) == 24 + 12
