"""Transferability: each score by hand or by what it must do on features whose worth is known, the ranking, the verb."""

import json
import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from tests.cli.typed import ROWS as PETS
from tests.cli.typed import call

from pairtune import Base, Task
from pairtune.analysis.transferability import evidence, scatter, shape, source
from pairtune.analysis.transferability.features import Features, features_of
from pairtune.analysis.transferability.rank import CLASSES, SUMS, _scores, rank_bases
from pairtune.data.split import Split
from pairtune.errors import DataError, InputError

DRAW = np.random.default_rng(0)
CLASSES_OF = np.repeat([0, 1, 2], 30)


def clouds(apart: float, width: int = 8) -> np.ndarray:
    """Three classes, `apart` from one another in the first dimensions."""
    rows = DRAW.normal(size=(90, width))
    rows[:, :3] += apart * np.eye(3)[CLASSES_OF]
    return rows


@pytest.mark.parametrize("name", ["h-score", "transrate", "gbc", "n-leep"])
def test_scores_rise_with_the_distance_of_the_classes(name):
    values = [CLASSES[name](Features(rows, rows, classes=CLASSES_OF)) for rows in (clouds(0), clouds(2), clouds(8))]
    assert values[0] < values[1] < values[2]


@pytest.mark.parametrize("score", [evidence.logme, shape.parc])
def test_scores_of_targets_rise_with_the_distance_of_the_classes(score):
    columns = np.eye(3)[CLASSES_OF]
    values = [score(rows, columns) for rows in (clouds(0), clouds(2), clouds(8))]
    assert values[0] < values[1] < values[2]


@pytest.mark.parametrize("shape_of", [(40, 6), (12, 20)])
def test_logme_is_the_evidence_of_a_gaussian(shape_of):
    """With α and β as they end, ln N(y; 0, F Fᵀ / α + I / β) is the same by another way."""
    rows = DRAW.normal(size=shape_of)
    target = rows @ DRAW.normal(size=shape_of[1]) * 0.3 + DRAW.normal(size=shape_of[0])
    found = evidence.logme(rows, target[:, None])

    def by_hand(alpha, beta):
        covariance = rows @ rows.T / alpha + np.eye(len(rows)) / beta
        return multivariate_normal(np.zeros(len(rows)), covariance).logpdf(target) / len(rows)

    left, singular, _ = np.linalg.svd(rows, full_matrices=False)
    inside, squares, alpha, beta = left.T @ target, singular**2, 1.0, 1.0
    for _ in range(11):
        ratio = alpha / beta
        weights = (singular * inside / (squares + ratio)) ** 2
        missed = target @ target - inside @ inside + ((inside * ratio / (squares + ratio)) ** 2).sum()
        gamma = (squares / (squares + ratio)).sum()
        alpha, beta = gamma / weights.sum(), (len(rows) - gamma) / missed
        if abs(alpha / beta - ratio) <= 0.01 * ratio:
            break
    assert found == pytest.approx(by_hand(alpha, beta), abs=0.02)  # one half-step of the fixed point
    assert found > by_hand(alpha * 30, beta)
    assert found > by_hand(alpha, beta * 30)


def test_logme_has_no_answer_where_nothing_varies():
    with pytest.raises(DataError, match="all equal"):
        evidence.logme(clouds(1), np.ones((90, 1)))


def test_the_h_score_is_that_of_the_equation():
    rows = clouds(3)
    from sklearn.covariance import LedoitWolf

    model = LedoitWolf(assume_centered=True).fit(rows - rows.mean(0))
    means = np.stack([(rows - rows.mean(0))[one == CLASSES_OF].mean(0) for one in CLASSES_OF])
    wanted = np.trace(np.linalg.inv(model.covariance_) @ (means.T @ means / 90)) * (1 - model.shrinkage_)
    assert scatter.h_score(rows, CLASSES_OF) == pytest.approx(wanted)


def test_transrate_and_gbc_by_their_equations():
    rows = clouds(2, width=3)
    centred = rows - rows.mean(0)

    def rate(part):
        return np.linalg.slogdet(np.eye(3) + part.T @ part / (len(part) * 1e-4))[1] / 2

    wanted = rate(centred) - np.mean([rate(centred[one == CLASSES_OF]) for one in range(3)])
    assert scatter.transrate(rows, CLASSES_OF) == pytest.approx(wanted)
    same = np.concatenate([rows[:30], rows[:30]])
    halves = np.repeat([0, 1], 30)
    assert scatter.gbc(same, halves) == pytest.approx(-1.0), "the same cloud twice overlaps wholly"


def test_leep_and_nce_of_a_source_that_says_everything_or_nothing():
    certain, silent = np.eye(3)[CLASSES_OF], np.full((90, 4), 0.25)
    assert source.leep(certain, CLASSES_OF) == pytest.approx(0.0, abs=1e-9)
    assert source.leep(silent, CLASSES_OF) == pytest.approx(math.log(1 / 3))
    assert source.nce(certain, CLASSES_OF) == pytest.approx(0.0, abs=1e-9)
    assert source.nce(silent, CLASSES_OF) == pytest.approx(math.log(1 / 3))


def test_kernel_alignment_is_one_for_a_turned_copy_and_low_for_noise():
    rows = clouds(2)
    turn = np.linalg.qr(DRAW.normal(size=(8, 8)))[0]
    assert shape.kept(rows, 3 * rows @ turn) == pytest.approx(1.0)
    assert shape.kept(rows, DRAW.normal(size=rows.shape)) < 0.5
    assert shape.concentration(np.outer(np.ones(9), np.ones(4))) == pytest.approx(1.0)
    assert shape.concentration(np.eye(4)) == pytest.approx(0.25)


def test_numbers_are_fitted_by_leading_directions():
    rows = np.zeros((60, 5))
    rows[:, 0] = 10 * DRAW.normal(size=60)
    rows[:, 1:] = DRAW.normal(size=(60, 4))
    followed, unseen = rows[:, :1], DRAW.normal(size=(60, 1))
    assert shape.regression_fit(rows, followed) == pytest.approx(0.0, abs=1.0)
    assert shape.regression_fit(rows, followed) > shape.regression_fit(rows, 10 * unseen)
    assert evidence.linear_probe(rows, None, followed) > 0.9 > 0.2 > evidence.linear_probe(rows, None, unseen)
    assert shape.parc(rows, followed) > shape.parc(rows, unseen)


def test_sums_are_over_the_pool():
    pool = {
        name: Features(rows, clouds(0), classes=CLASSES_OF)
        for name, rows in (("good", clouds(8)), ("bad", clouds(0)), ("middling", clouds(2)))
    }
    scores = _scores(pool, {})
    assert set(scores) == set(SUMS)
    for values in scores.values():
        assert 0 <= min(values.values()) <= max(values.values()) <= 2


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pets")
    for name, times in (("train", 10), ("validation", 2), ("test", 2)):
        lines = [json.dumps({"text": text, "label": label, "size": len(text)}) for text, label in PETS * times]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def test_the_command_ranks_bases_and_refuses_what_it_cannot(task, tiny_llama, tiny_bert, tmp_path, capsys):
    ask = ("inspect", "transferability", tiny_llama, tiny_bert, "--data", task)
    code, out, err = call(capsys, *ask, "--html", tmp_path / "t.html")
    assert code == 0, err
    assert "comes first" in out
    assert "no classifier of its own" in out
    code, out, err = call(capsys, *ask, "--json")
    found = json.loads(out)
    ranks = [one["mean_rank"] for one in found["candidates"].values()]
    assert ranks == sorted(ranks)
    assert sum(one["first"] for one in found["candidates"].values()) == found["halves"]
    for one in found["candidates"].values():
        assert one["scores"]["linear probe"] == 1.0, "eleven words tell cats from dogs"
    code, _, err = call(capsys, "inspect", "transferability", tiny_llama, "--data", task)
    assert code == 2
    assert "at least two different bases" in err


def test_a_task_of_numbers_is_ranked_by_what_fits_numbers(task, tiny_llama, tiny_bert):
    sizes = Task.load(str(task), kind="regression", text="text", label="size")
    found = rank_bases([str(tiny_llama), str(tiny_bert)], sizes)
    assert set(next(iter(found.candidates.values())).scores) == {"linear probe", "logme", "parc", *SUMS}
    plain = Task.load(str(task), kind="lm", text="text")
    with pytest.raises(InputError, match="tasks of classes or numbers"):
        rank_bases([str(tiny_llama), str(tiny_bert)], plain)


def test_a_language_model_reads_the_text_without_its_label(task, tiny_llama):
    """With the label's words in it, rows of one text and two labels would have different features."""
    base = Base.load(str(tiny_llama), task="classification", labels=["cat", "dog"])
    rows = Split.of([{"text": "it ran", "label": label} for label in ("cat", "dog")], "rows")
    found = features_of(base, Task.load(str(task), kind="classification", text="text", label="label"), rows)
    assert np.array_equal(found.last[0], found.last[1])
    assert not np.array_equal(found.first, found.last)


def test_an_encoder_decoder_is_refused(task, tiny_t5, tiny_bert):
    with pytest.raises(InputError, match="is an encoder-decoder"):
        rank_bases([str(tiny_t5), str(tiny_bert)], Task.load(str(task), text="text", label="label"))


def test_a_base_with_a_classifier_of_its_own_is_asked_for_it(task, tiny_bert, tmp_path):
    from tests.conftest import save
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folders = []
    for name in ("one", "other"):
        model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
        folders.append(str(save(tmp_path / name, model, AutoTokenizer.from_pretrained(tiny_bert))))
    found = rank_bases(folders, Task.load(str(task)))
    assert not found.lacking
    assert {"leep", "nce"} <= set(next(iter(found.candidates.values())).scores)
