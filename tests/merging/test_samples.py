"""Merges that look at data: what is collected, by direct evaluation of the equations; going on; and wrong data."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from tests.merging.bases import task, tuned
from tests.merging.models import configured, moved
from tests.merging.test_interrupted import in_child, kill_at_write

from pairtune.data.task import Task
from pairtune.errors import ConfigError, InputError
from pairtune.merging.config.recipe import run_file
from pairtune.merging.engine.in_memory import combine
from pairtune.merging.engine.run import merge
from pairtune.merging.fisher import Fisher
from pairtune.merging.inputs import samples
from pairtune.merging.inputs.opening import open_sources
from pairtune.merging.regmean import RegMean
from pairtune.pair.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return task(tmp_path_factory.mktemp("data") / "pets")


@pytest.fixture(scope="module")
def classifiers(tiny_bert, data, tmp_path_factory):
    place = tmp_path_factory.mktemp("classifiers")
    return [tuned(tiny_bert, data, place / name, tuner, seed=i) for i, (name, tuner) in enumerate(
        {"full": "full", "lora": "lora"}.items()
    )]  # fmt: skip


@pytest.fixture(scope="module")
def writers(tiny_llama, data, tmp_path_factory):
    place = tmp_path_factory.mktemp("writers")
    return [tuned(tiny_llama, data, place / name, tuner) for name, tuner in {"full": "full", "lora": "lora"}.items()]


def collected(folder, base, data, method, rows=3):
    """What the method collects of one model, and the model itself with its samples."""
    (source,), origin = open_sources([str(folder)], None if base is None else str(base))
    found = samples._samples(source, origin, str(data), rows)
    return method.collect(found.pair, found.batches()), found


def gradients(pair, value):
    parameters = dict(pair.model.named_parameters())
    slopes = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, slopes, strict=True))


@pytest.mark.parametrize("which", [0, 1], ids=["full", "lora"])
def test_fisher_of_a_classifier_is_the_expectation_over_its_own_answers(classifiers, data, tiny_bert, which):
    found, one = collected(classifiers[which], tiny_bert, data, Fisher(normalize=False))
    pair = one.pair
    pair.model.double().requires_grad_(True)
    expected: dict[str, torch.Tensor] = {}
    for batch in one.batches():
        p = pair.forward(batch).logits[0].softmax(-1).detach()
        for c in range(len(p)):
            log_p = pair.forward(batch).logits[0].log_softmax(-1)[c]
            for name, slope in gradients(pair, log_p).items():
                disk = pair.base.names.disk(name)[0]
                if slope is not None:
                    expected[disk] = expected.get(disk, 0) + float(p[c]) * slope**2 / 3
    assert set(expected) <= set(found) and "classifier.weight" in expected
    largest = max(float(tensor.max()) for tensor in expected.values())
    for name, tensor in expected.items():
        assert torch.allclose(found[name].double(), tensor, rtol=2e-3, atol=1e-9 * largest), name


def test_fisher_of_a_language_model_is_the_sum_over_its_tokens(writers, data, tiny_llama):
    """Two hundred draws of one row come near the sum over the whole vocabulary; the label alone is scored."""
    _, one = collected(writers[0], tiny_llama, data, Fisher(), rows=1)
    (batch,) = one.batches()
    pair, name = one.pair, "model.layers.3.mlp.up_proj.weight"
    labels = batch["labels"][0, 1:]
    assert 0 < int((labels >= 0).sum()) < len(labels)

    def log_p():
        return pair.forward(batch).logits[0, :-1][labels >= 0].log_softmax(-1)

    pair.model.requires_grad_(True)
    shares, exact = log_p().exp().detach(), torch.zeros(())
    for t, v in torch.cartesian_prod(torch.arange(shares.shape[0]), torch.arange(shares.shape[1])).tolist():
        exact = exact + float(shares[t, v]) * gradients(pair, log_p()[t, v])[name] ** 2
    drawn = Fisher(normalize=False).collect(pair, [batch] * 200)[name]
    assert float(drawn.sum()) == pytest.approx(float(exact.sum()), rel=0.1)
    assert float(torch.cosine_similarity(drawn.flatten(), exact.flatten(), dim=0)) > 0.97


def test_fisher_is_divided_by_its_norm_unless_told_otherwise(classifiers, data, tiny_bert):
    raw, _ = collected(classifiers[0], tiny_bert, data, Fisher(normalize=False))
    divided, _ = collected(classifiers[0], tiny_bert, data, Fisher())
    norm = float(torch.cat([one.flatten().double() for one in raw.values()]).norm())
    assert all(torch.allclose(divided[name], raw[name] / norm, rtol=1e-5) for name in raw)


def inputs_of(pair, batches, path):
    seen = []
    hook = pair.model.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args[0].double()))
    with torch.no_grad():
        for batch in batches:
            pair.forward(batch)
    hook.remove()
    return torch.cat([one.reshape(-1, one.shape[-1]) for one in seen])


@pytest.mark.parametrize("kind", ["classifiers", "writers"])
def test_regmean_is_the_least_squares_fit_to_all_models_outputs(kind, data, tiny_bert, tiny_llama, request):
    folders = request.getfixturevalue(kind)
    base, path, name = {
        "classifiers": (tiny_bert, "bert.encoder.layer.1.output.dense", "encoder.layer.1.output.dense.weight"),
        "writers": (tiny_llama, "model.layers.2.mlp.down_proj", "model.layers.2.mlp.down_proj.weight"),
    }[kind]
    both = [collected(folder, base, data, RegMean(), rows=12) for folder in folders]
    weights = [dict(one.pair.model.named_parameters())[f"{path}.weight"].detach().double() for _, one in both]
    rows = [inputs_of(one.pair, one.batches(), path) for _, one in both]
    rows = [x / len(x) ** 0.5 for x in rows]
    for x, (found, _) in zip(rows, both, strict=True):
        assert torch.allclose(found[name], x.T @ x, rtol=1e-9, atol=1e-12)
    given = [0.7, 0.3]
    stacked = torch.cat([w**0.5 * x for w, x in zip(given, rows, strict=True)])
    wanted = torch.cat([w**0.5 * x @ v.T for w, x, v in zip(given, rows, weights, strict=True)])
    merged = combine(
        [{name: w} for w in weights],
        configured("regmean", alpha=1.0),
        given,
        statistics=[{name: found[name]} for found, _ in both],
    )[name]
    best = torch.linalg.lstsq(stacked, wanted, driver="gelsd").solution
    # Where the inputs do not span all directions the fits differ, their outputs do not.
    assert torch.allclose(stacked @ merged.T, stacked @ best, atol=1e-6)
    plain = given[0] * weights[0] + given[1] * weights[1]
    assert float((stacked @ merged.T - wanted).norm()) < float((stacked @ plain.T - wanted).norm())


@pytest.mark.parametrize("name", ["fisher", "regmean"])
def test_a_merge_with_data_is_the_one_in_memory(name, writers, data, tiny_llama, tmp_path):
    given = [0.6, 0.4]
    done = merge(writers, tmp_path / "out", name, weights=given, data=[data, data], rows=3)
    assert done.card["check"]["prompts"] == 4
    assert [one["rows"] for one in done.card["samples"]] == [3, 3]
    method = configured(name)
    both = [collected(folder, tiny_llama, data, method) for folder in writers]
    sources, _ = open_sources([str(folder) for folder in writers], str(tiny_llama))
    models = [
        {n: s.read(n).value(0, 1 << 40, torch.float32)[: s.tensors[n].numel()].view(s.shape(n)) for n in s.names}
        for s in sources
    ]
    expected = combine(models, method, given, statistics=[found for found, _ in both])
    written = Checkpoint(tmp_path / "out")
    assert all(torch.allclose(written[n], expected[n], atol=1e-6) for n in written)
    plain = combine(models, configured("linear"), given)
    assert any(not torch.allclose(written[n], plain[n], atol=1e-4) for n in written)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_heads_are_merged_with_what_is_known_of_them(classifiers, data, tmp_path):
    merge(classifiers, tmp_path / "out", "fisher", data=[data, data], rows=2)
    merge(classifiers, tmp_path / "plain", "linear")
    head = "classifier.weight"
    assert not torch.allclose(Checkpoint(tmp_path / "out")[head], Checkpoint(tmp_path / "plain")[head], atol=1e-5)


def test_checkpoints_without_a_base(tiny_llama, data, tmp_path):
    models = [moved(tiny_llama, tmp_path / name, seed) for seed, name in enumerate("ab")]
    merge(models, tmp_path / "out", "regmean", data=[data, data], rows=2)
    merge([tiny_llama, tiny_llama], tmp_path / "same", "regmean", data=[data, data], rows=2)
    base, same = Checkpoint(tiny_llama), Checkpoint(tmp_path / "same")
    assert all(torch.equal(same[name], base[name]) for name in base)


def test_killed_it_goes_on_with_what_was_collected(writers, data, tmp_path, monkeypatch):
    def run(out, **more):
        return merge(writers, out, "fisher", data=[data, data], rows=2, threads=1, check=False, **more)

    run(tmp_path / "whole")
    status = in_child(lambda: (kill_at_write(20), run(tmp_path / "out")))
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    kept = tmp_path / ".out.statistics"
    files = sorted(kept.iterdir())
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:-100])  # the disk has lost the end of one
    asked = []
    real = Fisher.collect

    def counted(self, pair, batches):
        asked.append(pair)
        return real(self, pair, batches)

    monkeypatch.setattr(Fisher, "collect", counted)
    assert run(tmp_path / "out").card["continued"] > 5
    assert len(asked) == 1
    assert not kept.exists()
    one, other = (Checkpoint(tmp_path / name) for name in ("whole", "out"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    in_child(lambda: (kill_at_write(20), run(tmp_path / "next")))
    assert merge(writers, tmp_path / "next", "fisher", data=[data, data], rows=3).card["continued"] == 0
    assert len(asked) == 3


def test_a_recipe_names_the_data_of_each_model(writers, data, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    models = [{"model": str(one), "data": str(data)} for one in writers]
    recipe.write_text(json.dumps({"models": models, "method": "regmean", "rows": 2, "out": str(tmp_path / "out")}))
    assert run_file(recipe, {"check": False}).card["samples"][0]["task"] == "pets"


def test_wrong_data(writers, classifiers, data, tiny_bert, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"fisher: looks at rows of the task .* each of the 2 models.* \(found none\)"):
        merge(writers, out, "fisher")
    with pytest.raises(InputError, match=r"regmean: .* each of the 2 models, in their order \(found 1\)"):
        merge(writers, out, "regmean", data=[data])
    with pytest.raises(InputError, match="linear: looks at no data; leave --data out, .*: fisher, regmean"):
        merge(writers, out, "linear", data=[data, data])
    with pytest.raises(InputError, match="rows: are those of --data"):
        merge(writers, out, "linear", rows=5)
    with pytest.raises(InputError, match="rows: expected 1 or more, found 0"):
        merge(writers, out, "fisher", data=[data, data], rows=0)
    with pytest.raises(InputError, match="fisher: weights are 0 or more, and not all 0; found 1, -1"):
        merge(writers, out, "fisher", weights=[1, -1], data=[data, data])
    other = tmp_path / "colours"
    other.mkdir()
    rows = "\n".join(json.dumps({"text": f"the {name}", "label": name}) for name in ("red", "blue") * 6)
    for split in ("train", "validation"):
        (other / f"{split}.jsonl").write_text(rows)
    with pytest.raises(InputError, match=r"train.jsonl, line 1: .*red"):
        merge(classifiers, out, "fisher", data=[data, other])
    merge(classifiers, tmp_path / "whole", "linear")
    with pytest.raises(
        InputError, match="whole answers with cat, dog, colours has the labels blue, red; give the task"
    ):
        merge([tmp_path / "whole", tmp_path / "whole"], out, "fisher", data=[data, other])
    with pytest.raises(InputError, match="this encoder has no head"):
        merge([tiny_bert, tiny_bert], out, "fisher", data=[data, data])
    with pytest.raises(InputError, match="nowhere"):
        merge(writers, out, "fisher", data=[data, "nowhere"])
    entry = {"layers": ["rest"], "method": "fisher"}
    recipe = {"models": [str(one) for one in writers], "layers": [entry], "out": str(out)}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    with pytest.raises(ConfigError, match="layers|fisher looks at data"):
        run_file(tmp_path / "recipe.yaml", {})
    (tmp_path / "kit.yaml").write_text(json.dumps({"merge_method": "fisher", "models": [{"model": "x"}]}))
    with pytest.raises(ConfigError, match="merge_method: 'fisher' looks at data, which such a file cannot name"):
        run_file(tmp_path / "kit.yaml", {"out": str(out)})
    assert not out.exists() and not (tmp_path / ".out.statistics").exists()
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="holds files that pairtune did not save there"):
        merge(writers, out, "fisher", data=[data, data])
    assert not (tmp_path / ".out.statistics").exists()


def test_the_rows_are_those_of_the_training_split_spread_evenly(data, writers, tiny_llama):
    _, one = collected(writers[0], tiny_llama, data, RegMean(), rows=4)
    train = Task.load(str(data)).split("train")
    assert [row["text"] for row in one.rows] == [train[i]["text"] for i in (0, 3, 6, 9)]
