"""The likelihood-ratio reproduction: AUROC as a mean over items, arms and signs, variants, bases made here."""

import numpy as np
import pytest
import torch
from tests.ood.pairs import FAR, TEXTS, causal, task

from pairtune.errors import InputError
from pairtune.ood.scoring import Scorer
from pairtune.pair.base import Base
from pairtune.pair.pair import Pair
from pairtune.pair.separation import auroc
from pairtune.reproductions import frame
from pairtune.reproductions.frame import Results
from pairtune.reproductions.likelihood import answers, bases, far, near, placement, pretrained, spam, training_length
from pairtune.reproductions.likelihood.bench import RATES, Bench
from pairtune.reproductions.likelihood.sets import Ground

REPRODUCTION = frame.load("likelihood-ratio-ood")


def scores(seed=0, n_id=70, n_ood=40):
    generator = np.random.default_rng(seed)
    # Rounded, so that there are ties.
    return generator.normal(0, 1, n_id).round(1), generator.normal(0.8, 2, n_ood).round(1)


def test_the_mean_of_the_pseudo_values_is_the_auroc():
    inside, outside = scores()
    values = placement.pseudo_values(inside, outside)
    assert len(values) == 110
    assert values.mean() == pytest.approx(auroc(inside, outside), abs=1e-12)
    direct = np.mean([(o > i) + 0.5 * (o == i) for i in inside for o in outside])
    assert values.mean() == pytest.approx(direct, abs=1e-12)


def test_their_resampled_mean_varies_as_the_auroc_of_resampled_items_does():
    inside, outside = scores(n_id=150, n_ood=60)
    values, generator = placement.pseudo_values(inside, outside), np.random.default_rng(1)
    areas = [auroc(generator.choice(inside, 150), generator.choice(outside, 60)) for _ in range(3000)]
    means = [generator.choice(values, 210).mean() for _ in range(3000)]
    assert np.std(means) == pytest.approx(np.std(areas), rel=0.06)
    plain = np.concatenate([(values - values.mean())[:150] * 150 / 210, (values - values.mean())[150:] * 60 / 210])
    unweighted = [generator.choice(plain, 210).mean() for _ in range(3000)]
    assert np.std(unweighted) != pytest.approx(np.std(areas), rel=0.06)


def test_length_counts_with_the_sign_that_suits_each_split(tmp_path):
    results = Results.open(tmp_path, {})
    short, long = {"length": np.array([1.0, 2, 3])}, {"length": np.array([4.0, 5])}
    placement.keep(results, 0, {"longer": (short, long), "shorter": (long, short)})
    assert placement.areas(results, "longer") == {"length": 1.0, "length, either way": 1.0}
    assert placement.areas(results, "shorter") == {"length": 0.0, "length, either way": 1.0}
    assert results.notes["figures by seed"]["shorter"]["length"]["0"]["AUROC"] == 0.0
    assert placement.missing(results, ["length"], {"seeds": 2}) == [1]


@pytest.mark.parametrize(
    ("parts", "arms", "splits"),
    [
        (near.PARTS, near.ARMS, (near.CLINC, near.BANKING)),
        (far.FAR.parts, near.ARMS, (*far.CLINC, *far.NEWS)),
        (spam.SPAM_EXPERIMENT.parts, {**spam.HAM, **spam.SPAM}, (spam.SPLIT,)),
        (answers.ANSWERS.parts, answers.ARMS, answers.SPLITS),
        (bases.BASES.parts, bases.arms(), (near.CLINC,)),
        (
            training_length.TRAINING_LENGTH.parts,
            {f"{arm}, {share} %" for arm in training_length.ARMS for share in training_length.SHARES},
            (near.CLINC,),
        ),
    ],
)
def test_every_part_compares_arms_and_splits_that_there_are(parts, arms, splits):
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        assert {part.method, part.baseline} <= {*arms, placement.BEST_LENGTH}
        assert {*part.splits} <= {*splits}
    assert not [name for name in (*arms, *splits) if "|" in name], "a bar would break the published table"


def test_what_counts_is_what_the_claim_says():
    parts = [p for one in (REPRODUCTION, *REPRODUCTION.more) for p in one.parts if p.counts]
    assert [(p.method, p.baseline) for p in parts] == [
        *(2 * [("LR", "LH"), ("NLR", "NLH"), ("LR", "length, either way")]),
        ("LR", "LH"),
        ("ham LR", "ham LH"),
        ("LR", "LR, random base"),
        ("LR", "LR, Shakespeare base"),
    ]


def test_the_base_put_in_the_bases_place_gives_the_ratio_itself(tiny_llama):
    pair = causal(tiny_llama)
    texts = [TEXTS, FAR]
    own = near.scores(pair, task("lm"), bases.OWN, texts, 64)
    surprise = {"itself": near.scores(Pair(Base.load(str(tiny_llama))), task("lm"), bases.OTHER, texts, 64)}
    for side, found in enumerate(own):
        both = bases._with_other_bases(found, surprise, side)
        for arm in ("LR", "NLR"):
            assert np.ptp(found[arm]) > 0
            np.testing.assert_allclose(both[f"{arm}, itself"], found[arm], atol=1e-4)


def test_arms_are_scored_by_their_detectors(tiny_llama):
    pair = causal(tiny_llama)
    found = near.scores(
        pair, task("lm"), {"one": "likelihood:sum", "two": "knn"}, [FAR], 64, settings={"knn": {"k": 3}}
    )
    direct = Scorer(pair, ["likelihood:sum"], 64).table(FAR)["likelihood:sum"]
    np.testing.assert_allclose(found[0]["one"], direct, atol=1e-5)
    assert (found[0]["two"] > 0).all()


@pytest.fixture
def bench(tmp_path, tiny_llama):
    rows = [{"text": text} for text in ("the cat sat on the mat", "the dog ran over the mat", "a man and a woman") * 3]
    settings = {"epochs": 1, "batch_size": 4, "max_length": 32, "precision": "float32", "base": str(tiny_llama)}
    return Bench("pets", Results.open(tmp_path, {}), Ground(rows, rows[:3], [], {}), settings)


def test_the_rate_is_that_of_the_lowest_validation_loss_and_its_variant_is_seed_0(bench):
    tried = None
    assert bench.rate in RATES
    tried = bench.results.notes["validation loss, pets"]
    assert set(tried) == set(map(str, RATES))
    assert tried[str(bench.rate)] == min(tried.values())
    first = bench.variant(0)
    assert first.card is not None
    assert first.card.metrics["validation loss"] == pytest.approx(min(tried.values()))
    assert sorted(place.name for place in bench.folder.iterdir()) == ["seed-0", "task"]


def test_a_kept_variant_is_not_tuned_again(bench, monkeypatch):
    bench.variant(1)
    monkeypatch.setattr(Bench, "_tuned", lambda *_: pytest.fail("tuned again"))
    again = Bench(bench.name, bench.results, bench.ground, bench.settings)
    assert again.saved(1) == bench.folder / "seed-1"
    for name, value in again.variant(1).base.parameters.items():
        assert value.equal(bench.variant(1).base.parameters[name])
    bench.drop()
    assert not bench.folder.exists()


def test_a_random_base_has_the_architecture_and_nothing_else(tiny_llama, tmp_path):
    one, two = (
        Base.load(str(pretrained.random_base(str(tiny_llama), tmp_path / name, seed=7))) for name in ("one", "two")
    )
    source = Base.load(str(tiny_llama))
    assert one.fingerprint.tokenizer == source.fingerprint.tokenizer
    for name, value in source.parameters.items():
        assert one.parameters[name].shape == value.shape
        assert one.parameters[name].equal(two.parameters[name])
    assert not torch.allclose(
        one.parameters["model.embed_tokens.weight"], source.parameters["model.embed_tokens.weight"]
    )


def test_pretraining_is_lengthened_not_repeated(tmp_path):
    pretrained.write_corpus(tmp_path / "corpus", [f"a story of {i} cats and a dog on the mat" for i in range(400)])
    shape = ("--layers", "1", "--width", "32", "--inner", "64", "--heads", "2")
    first = pretrained.pretrain(tmp_path / "corpus", tmp_path / "run", tmp_path / "short", 4096, shape)
    before = (tmp_path / "run").glob("step-*")
    assert [place.name for place in before] == ["step-00000002"]
    long = pretrained.pretrain(tmp_path / "corpus", tmp_path / "run", tmp_path / "long", 20480, shape)
    assert [place.name for place in (tmp_path / "run").glob("step-*")] == ["step-00000010"]
    text = ["a story of 7 cats and a dog on the mat"]
    surprise = [
        Scorer(Pair(Base.load(str(p))), ["likelihood:token"]).table(text)["likelihood:token"] for p in (first, long)
    ]
    assert surprise[1] < surprise[0]


def test_a_missing_data_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="clinc150.*--set data=FOLDER"):
        frame.execute(REPRODUCTION, tmp_path / "work", {"data": str(tmp_path)})
