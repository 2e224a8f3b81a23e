"""Several pairs over one base: the weights are in memory once, and no pair disturbs another."""

import torch

from pairtune import registry
from pairtune.pair.base import Base
from pairtune.pair.pair import Layer, Pair
from pairtune.pair.twin import load_pairs, twin

BATCH = {"input_ids": torch.tensor([[1, 5, 9, 12]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}


def logits(pair):
    with torch.no_grad():
        return pair.model(**BATCH).logits


def tuned(folder, name, settings, seed):
    base = Base.load(folder)
    tuner = registry.build("tuners", name, settings)
    torch.manual_seed(seed)
    installed = tuner.install(base, base.model)
    with torch.no_grad():
        for _, parameter in installed.trainable():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Pair(base, [Layer(installed, lambda: tuner.extract(installed), {"tuner": {"name": name, **settings}})])


def test_pairs_on_one_base_share_its_weights_and_answer_as_alone(tiny_llama, tmp_path):
    made = {"lora": {"r": 2}, "full": {}, "adapter": {"reduction": 4}}
    for seed, (name, settings) in enumerate(made.items()):
        tuned(tiny_llama, name, settings, seed).save(tmp_path / name)
    alone = {name: logits(Pair.load(tmp_path / name)) for name in made}
    loaded = load_pairs({name: tmp_path / name for name in made})
    one, two, three = loaded.values()
    shared = one.base.parameters
    assert all(other.base.parameters[name] is p for other in (two, three) for name, p in shared.items())
    assert all(torch.equal(logits(pair), alone[name]) for name, pair in loaded.items())
    with one.off(), three.off():
        assert torch.equal(logits(one), logits(three))
        assert torch.equal(logits(two), alone["full"])
    assert two.base.fingerprint == one.base.fingerprint and one.base.checksum() == Base.load(tiny_llama).checksum()


def test_a_twin_is_the_base_as_it_was_loaded_whatever_stands_on_the_first(tiny_llama):
    pair = tuned(tiny_llama, "lora", {"r": 2}, 0)
    other = twin(pair.base)
    assert torch.equal(logits(Pair(other)), logits(Pair(Base.load(tiny_llama))))
    assert [name for name, _ in other.model.named_modules()] == [
        name for name, _ in Base.load(tiny_llama).model.named_modules()
    ]


def test_pairs_that_want_different_heads_have_bases_of_their_own(tiny_bert, tmp_path):
    for labels in (["a", "b"], ["a", "b", "c"]):
        base = Base.load(tiny_bert, task="classification", labels=labels)
        tuner = registry.build("tuners", "head", {})
        installed = tuner.install(base, base.model)
        pair = Pair(base, [Layer(installed, lambda t=tuner, i=installed: t.extract(i), {"tuner": {"name": "head"}})])
        card = pair.save(tmp_path / str(len(labels)))
        card.task = {"kind": "classification", "labels": labels, "text": ["text"], "label": "label"}
        pair.save(tmp_path / str(len(labels)), card)
    loaded = load_pairs({n: tmp_path / n for n in ("2", "3")})
    assert [logits(pair).shape[-1] for pair in loaded.values()] == [2, 3]
