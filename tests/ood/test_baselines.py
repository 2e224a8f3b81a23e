"""The baselines against the float64 equations and pytorch-ood, on the features and logits of small models."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
from tests.ood.pairs import FAR, LABELS, ROWS, TEXTS, classifier, task

from pairtune.errors import InputError, MissingView
from pairtune.ood.scoring import Scorer, available, score_table
from pairtune.ood.vim import _penultimate

TARGETS = torch.tensor([LABELS.index(label) for _, label in ROWS])


@pytest.fixture(scope="module")
def pair(tiny_bert):
    return classifier(tiny_bert)


class Standin(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for torchvision, which pytorch-ood imports for image models and data sets; none is used here."""

    def find_spec(self, name, path=None, target=None):
        mine = name.partition(".")[0] == "torchvision"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if mine else None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: type(name, (), {})
        return module

    def exec_module(self, module):
        pass


@pytest.fixture(scope="module")
def peer():
    """pytorch-ood's detectors."""
    if importlib.util.find_spec("pytorch_ood") is None:
        pytest.skip("pytorch-ood of the extra [peers] is not installed")
    standin = Standin()
    sys.meta_path.insert(0, standin)
    try:
        return importlib.import_module("pytorch_ood.detector")
    finally:
        sys.meta_path.remove(standin)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]


@torch.no_grad()
def plain(pair, texts):
    """([N, d] mean-pooled last block, [N, C] logits) from one ordinary forward a text."""
    features, logits = [], []
    for text in texts:
        out = pair.model(**pair.tokenizer([text], return_tensors="pt"), output_hidden_states=True)
        features.append(out.hidden_states[-1][0].mean(0))
        logits.append(out.logits[0])
    return torch.stack(features), torch.stack(logits)


@pytest.fixture(scope="module")
def arrays(pair):
    return *plain(pair, [text for text, _ in ROWS]), *plain(pair, [*TEXTS, *FAR])


def scores(pair, name, **settings):
    stem = name.partition(":")[0]
    return Scorer(pair, [name], settings={stem: settings}, task=task()).fit(task()).table([*TEXTS, *FAR])[name]


def test_logit_baselines_are_their_equations(pair, arrays):
    logits = arrays[3].double()
    assert np.allclose(scores(pair, "msp"), 1 - logits.softmax(-1).amax(-1), atol=1e-6)
    assert np.allclose(scores(pair, "max-logit"), -logits.amax(-1), atol=1e-5)
    assert np.allclose(scores(pair, "energy"), -logits.logsumexp(-1), atol=1e-5)
    assert np.allclose(scores(pair, "energy", temperature=2.5), -2.5 * (logits / 2.5).logsumexp(-1), atol=1e-5)


def test_logit_baselines_equal_pytorch_ood(pair, arrays, peer):
    logits = arrays[3]
    for name, theirs in (
        ("msp", 1 + peer.MaxSoftmax(torch.nn.Identity()).predict(logits)),
        ("max-logit", peer.MaxLogit(torch.nn.Identity()).predict(logits)),
        ("energy", peer.EnergyBased(torch.nn.Identity()).predict(logits)),
    ):
        assert np.allclose(scores(pair, name), theirs, atol=1e-5), name


def test_distances_are_their_equations(pair, arrays):
    train, _, found, _ = (one.double().numpy() for one in arrays)
    means = np.stack([train[k == TARGETS].mean(0) for k in range(3)])
    centred = train - means[TARGETS]
    within = centred.T @ centred / len(train)
    total = np.cov(train.T, bias=True)

    def distance(x, mean, covariance):
        ridge = covariance + 0.01 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        return ((x - mean) @ np.linalg.inv(ridge) * (x - mean)).sum(-1)

    nearest = np.stack([distance(found, mean, within) for mean in means]).min(0)
    assert np.allclose(scores(pair, "mahalanobis", ridge=0.01), nearest, rtol=1e-3)
    relative = nearest - distance(found, train.mean(0), total)
    assert np.allclose(scores(pair, "relative-mahalanobis", ridge=0.01), relative, rtol=1e-3, atol=1e-2)
    unit, bank = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (found, train))
    far = np.sort(np.linalg.norm(unit[:, None] - bank[None], axis=-1), axis=1)
    assert np.allclose(scores(pair, "knn", k=3), far[:, 2], atol=1e-5)


def test_distances_equal_pytorch_ood(peer):
    """On features with more rows than dimensions, where the peer's fixed ridge does not decide."""
    from pairtune.ood.gaussians import Moments, squared_distances, whitener

    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(200, 6, generator=generator) * 3 + 1, torch.arange(200) % 4
    features += labels[:, None].float()
    others = torch.randn(50, 6, generator=generator) * 4
    moments = Moments()
    for part in range(0, 200, 37):
        moments.add(features[part : part + 37], labels[part : part + 37])
    nearest = squared_distances(others, moments.means(), whitener(moments.within(), 1e-9)).amin(-1)
    theirs = peer.Mahalanobis(None).fit_features(features, labels).predict_features(others)
    # Theirs is half the distance under the summed, not averaged, outer products.
    assert torch.allclose(nearest.float(), theirs * 2 * 200, rtol=1e-3)
    background = squared_distances(others, moments.mean()[None], whitener(moments.total(), 1e-9))[:, 0]
    relative = peer.RMD(None).fit_features(features, labels).predict_features(others)
    assert torch.allclose((nearest - background).float(), relative * 200, rtol=1e-3, atol=1e-2)


def test_knn_equals_pytorch_ood(pair, arrays, peer):
    train, _, found, _ = arrays
    theirs = peer.KNN(None, k=4).fit_features(train, TARGETS).predict_features(found)
    assert np.allclose(scores(pair, "knn", k=4), theirs, atol=1e-5)


def test_vim_equals_pytorch_ood(pair, peer):
    scorer = Scorer(pair, ["vim"], settings={"vim": {"dimension": 5}}, task=task())
    batches = list(scorer.batcher.labelled(task(), task().split("train")))
    with torch.inference_mode():
        features = torch.cat([_penultimate(pair, batch)[0] for batch in batches])
        head = pair.model.classifier
        given = scorer.batcher.batch(scorer.batcher.rows([_input(text) for text in FAR]))
        found = _penultimate(pair, given)[0]
    theirs = peer.ViM(None, 5, head.weight.detach(), head.bias.detach())
    theirs.fit_features(features, torch.zeros(len(features)))
    ours = scorer.fit(task()).table(FAR)["vim"]
    assert np.allclose(ours, theirs.predict_features(found), atol=1e-3)


def _input(text):
    from pairtune.ood.inputs import Input

    return Input.of(text)


def test_the_label_ratio_is_its_equation_with_a_linear_probe_on_the_base(pair, arrays):
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with pair.off():
        train, found = plain(pair, [text for text, _ in ROWS])[0], plain(pair, [*TEXTS, *FAR])[0]
    model = LogisticRegressionCV(
        Cs=[0.1, 1.0, 10.0], l1_ratios=(0,), cv=3, scoring="neg_log_loss", max_iter=500, use_legacy_attributes=False
    )
    probe = make_pipeline(StandardScaler(), model).fit(train.numpy(), TARGETS.numpy())
    base = probe.predict_log_proba(found.numpy())
    variant = arrays[3].double().log_softmax(-1).numpy()
    best = variant.argmax(1)
    rows = np.arange(len(best))
    expected = base[rows, best] - variant[rows, best]
    assert np.allclose(scores(pair, "label-ratio"), expected, atol=1e-3)
    divergence = (np.exp(variant) * (variant - base)).sum(1)
    assert np.allclose(scores(pair, "label-ratio:distribution"), divergence, atol=1e-3)


def test_every_detector_in_one_call_fitted_in_one_pass(pair):
    small = {"knn": {"k": 3}}
    found = score_table(pair, FAR, task(), settings=small)
    assert set(found) == set(available(pair, task()))
    assert {
        "msp",
        "energy",
        "max-logit",
        "mahalanobis",
        "relative-mahalanobis",
        "knn",
        "vim",
        "label-ratio:own",
        "label-ratio:distribution",
        "length",
    } == set(found)
    for name, values in found.items():
        assert np.allclose(values, Scorer(pair, [name], settings=small, task=task()).fit(task()).table(FAR)[name]), name


def test_one_sign(pair):
    """Where the answer is known: sure logits and features near a class are inside, flat ones and far ones outside."""
    from pairtune.ood.forms import make_detectors

    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(60) % 3
    centres = 6 * torch.eye(3, 16)
    train = centres[classes] + torch.randn(60, 16, generator=generator)
    near = centres[[0, 1, 2]] + 0.1
    head = torch.nn.Linear(16, 3)
    head.weight.data, head.bias.data = centres.clone(), torch.zeros(3)

    def batch(features, classes=None):
        logits = head(features).detach()
        kept = {f"pooled -1 {how} {side}": features for how in ("auto", "mean") for side in (0, 1)}
        return {"class_logits": logits, "classes": classes, "penultimate": (features, head), **kept}

    outside = torch.randn(3, 16, generator=generator) * 0.1 + torch.nn.functional.pad(torch.full((3, 3), 9.0), (13, 0))
    names = [name for name in available(pair) if name != "length" and not name.startswith("label-ratio")]
    assert len(names) == 7
    for name, detector in make_detectors(names).items():
        detector.fit(pair, [batch(train[:25], classes[:25]), batch(train[25:], classes[25:])])
        inner, outer = detector.score(pair, batch(near)), detector.score(pair, batch(outside))
        assert inner.max() < outer.min(), name
    (ratio,) = make_detectors(["label-ratio"]).values()
    ratio.fit(pair, [batch(train, classes)])
    surer = batch(outside) | {"class_logits": torch.tensor([[0.0, 9.0, 0.0]])}  # sure where the base is not: inside
    flat = batch(outside) | {"class_logits": torch.tensor([[0.0, 0.1, 0.0]])}
    assert ratio.score(pair, surer)[0] < ratio.score(pair, flat)[0]


def test_wrong_input_is_answered(pair, tiny_llama):
    from pairtune.pair.base import Base
    from pairtune.pair.pair import Pair

    with pytest.raises(InputError, match="must learn from ID data"):
        list(Scorer(pair, ["mahalanobis"]).stream(FAR))
    with pytest.raises(InputError, match="k is 50, and there are 9"):
        scores(pair, "knn", k=50)
    with pytest.raises(InputError, match="layers 1 to 3"):
        scores(pair, "mahalanobis", layer=7)
    with pytest.raises(InputError, match="at least two classes"):
        Scorer(pair, ["relative-mahalanobis"]).fit(task("lm"))
    with pytest.raises(InputError, match="dimension 16 leaves nothing"):
        scores(pair, "vim", dimension=16)
    with pytest.raises(MissingView, match="msp needs the labels view.*these work: .*log-ratio:sum"):
        Scorer(Pair(Base.load(tiny_llama)), ["msp"])
    with pytest.raises(MissingView, match="vim needs .*one linear layer"):
        Scorer(Pair(Base.load(tiny_llama)), ["vim"], task=task())
