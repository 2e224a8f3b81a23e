"""BitFit: the biases and a task's head, nothing else; a base without biases is refused."""

import pytest

from pairtune import registry
from pairtune.errors import InputError
from pairtune.pair.base import Base


def test_the_biases_and_the_head_train(tiny_bert):
    base = Base.load(tiny_bert, task="classification", labels=["a", "b"])
    installed = registry.build("tuners", "bitfit", {}).install(base, base.model)
    names = [name for name, _ in installed.trainable()]
    assert len(names) == len(set(names))
    assert set(names) == {name for name in base.parameters if name.endswith(".bias")} | {"classifier.weight"}
    assert any("LayerNorm.bias" in name for name in names) and any("query.bias" in name for name in names)


def test_a_base_without_biases_is_refused(tiny_llama):
    base = Base.load(tiny_llama)
    with pytest.raises(InputError, match="has no biases; take lora or sparse"):
        registry.build("tuners", "bitfit", {}).install(base, base.model)
