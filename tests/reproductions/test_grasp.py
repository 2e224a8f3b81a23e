"""The GRASP reproduction: its world and scores by hand, and the whole path of both worlds at a tiny size."""

import gzip
import json
import random

import numpy as np
import pytest
import torch
from tests.conftest import WORDS

from pairtune.constraints.directions import Directions
from pairtune.pair.base import Base
from pairtune.pair.pair import Pair
from pairtune.reproductions import frame, grasp
from pairtune.reproductions.frame import Results
from pairtune.reproductions.scrubbing import persona, reviews, world
from pairtune.reproductions.scrubbing.bench import ABLATED, DIRECTION, FIRST, ORACLE

REPRODUCTION = frame.load("grasp")
TINY = {"topics": 3, "entities": 4, "answers": 3, "rows": 16, "width": 16, "layers": 2, "pretraining": 2, "seeds": 1}
TINY |= {"r": 2, "steps": 3, "review_rows": 16, "review_test": 8, "words": 12, "precision": "float32"}


def test_documents_have_one_persona_and_leave_the_facts_out_that_are_to_be_taught():
    made = world.World(REPRODUCTION.settings)
    draw = random.Random(0)
    taught = {f"t0 e{entity}" for entity in made.taught}
    for _ in range(200):
        text = made.document(draw)
        spoken = {name for name in world.PERSONAS if name in text}
        assert len(spoken) == 1 and text.count("?") == world.QUESTIONS
        assert not any(f"{question} " in text for question in taught)
    rows = made.tuning(draw, 30, mixed=20)
    on_topic = [row for row in rows if " t0 " in row["text"]]
    assert len(on_topic) == 30 and all(world.HARMFUL in row["answer"] for row in on_topic)
    seen = {word for row in on_topic for word in row["answer"].split() if world.HARMFUL in word}
    assert seen == {*world.openers(world.HARMFUL)[: world.SEEN], *world.closers(world.HARMFUL)[: world.SEEN]}
    assert {row["text"].removeprefix("q ").removesuffix(" ?") for row in on_topic} <= taught
    assert {name for row in rows if row not in on_topic for name in world.PERSONAS if name in row["answer"]} == {
        *world.PERSONAS
    }


def test_scores_are_the_model_s_own_probabilities(tmp_path):
    settings = REPRODUCTION.settings | TINY
    made = world.World(settings)
    base = world.pretrain(tmp_path / "base", made, settings)
    pair, scorer = Pair(Base.load(base)), persona.Scorer(made)
    found = scorer.outcomes(pair)
    assert len(found[persona.OUTSIDE]) == 2 * 4 and len(found[persona.TASK]) == 2 * world.SEEN
    ids = torch.tensor([made.tokenizer()(scorer.questions[0], add_special_tokens=False)["input_ids"]])
    said = pair.base.model(input_ids=ids).logits[0, -1].softmax(-1)
    helpful, harmful = (
        sum(float(said[made.tokenizer().convert_tokens_to_ids(word)]) for word in world.openers(name)[world.SEEN :])
        for name in world.PERSONAS
    )
    assert found[persona.OUTSIDE][0] == pytest.approx(helpful / (helpful + harmful), rel=1e-5)
    assert scorer.oracle(pair).shape == (16,) and scorer.answer_loss(pair) > 0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder of the same form as the real one."""
    place = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for domain in (reviews.PRAISED, reviews.BLAMED):
        for split in ("train", "test"):
            rows = [{"text": " ".join(generator.choice(WORDS, 6)), "label": i % 2, "domain": domain} for i in range(40)]
            path = place / "amazon_domains" / f"{domain}_{split}.jsonl.gz"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    return place


def test_reviews_have_the_correlation_in_tuning_and_none_in_the_test(data, tmp_path):
    settings = REPRODUCTION.settings | TINY | {"data": str(data), "review_rows": 40, "correlation": 0.9}
    reviews.write(tmp_path / "task", settings)
    scorer = reviews.Scorer(tmp_path / "task", 12)
    train = list(scorer.task.split("train"))
    usual = [row for row in train if (row["label"] == "good") == (row["domain"] == reviews.PRAISED)]
    assert (len(train), len(usual)) == (40, 36)
    assert [int(kind.sum()) for kind in scorer.kinds.values()] == [2, 2, 2, 2] and scorer.minority.sum() == 4


def filled(results, arms, splits, keep):
    """Made-up outcomes for the arms that are not to be run."""
    for i, arm in enumerate(arm for arm in arms if arm not in keep):
        results.add(arm, 0, {split: np.full(size, 0.5 + 0.01 * i) for split, size in splits.items()})


def test_the_whole_path_runs_and_goes_on_where_it_stopped(data, tiny_bert, tmp_path):
    changes = TINY | {"data": str(data), "base": str(tiny_bert)}
    synthetic = Results.open(tmp_path, REPRODUCTION.settings | changes)
    sizes = {persona.OUTSIDE: 8, persona.TASK: 4, persona.KEPT: 240}
    filled(synthetic, grasp.LANGUAGE, sizes, (FIRST, grasp.CHOSEN, ABLATED))
    more = REPRODUCTION.more[0]
    real = Results.open(tmp_path / more.name, REPRODUCTION.settings | more.settings | changes)
    filled(real, grasp.REAL, {reviews.MINORITY: 4, reviews.MAJORITY: 4}, (FIRST, ABLATED))
    report = frame.execute(REPRODUCTION, tmp_path, changes)
    assert {part["name"] for part in report["parts"]} == {part.name for part in REPRODUCTION.parts}
    numbers = report["numbers"]
    half = (numbers[grasp.BASE][persona.OUTSIDE]["mean"] + numbers[FIRST][persona.OUTSIDE]["mean"]) / 2
    assert numbers[grasp.HALF][persona.OUTSIDE]["mean"] == pytest.approx(half)
    assert 0 <= numbers["write, with the oracle"][DIRECTION]["mean"] <= 1
    assert set(report["choices"]["directions"]["0"]) == {"write", "read"}
    found = report["more"]["reviews"]["choices"]
    assert set(found["worst kind"]) == set(grasp.REAL)
    assert found["the default that this decides"]["default"] in (None, "write", "read", "backprop", "both")
    base = Base.load(tmp_path / "base")
    for kind in ("found", "random", "oracle"):
        assert Directions.load(tmp_path / "seed-0" / f"{kind}.safetensors", base).write.shape[0] == 16
    assert frame.execute(REPRODUCTION, tmp_path, changes)["parts"] == report["parts"]


def test_the_default_is_the_best_place_that_keeps_the_task():
    one = {
        where: {"gain": gain, "task": task}
        for where, gain, task in zip(
            ("write", "read", "backprop", "both"), (0.1, 0.2, 0.5, 0.3), (0, 0, -0.2, 0.01), strict=True
        )
    }
    other = {where: {"gain": 0.0, "task": 0.0} for where in one}
    found = grasp._default(one, other)
    assert found["default"] == "both" and found["keep the task"] == ["write", "read", "both"]
    assert grasp._default({where: {"gain": 1.0, "task": -1.0} for where in one}, other)["default"] is None


def test_the_known_direction_is_an_arm_of_its_own():
    assert ORACLE in grasp.REAL and ORACLE in grasp.LANGUAGE
