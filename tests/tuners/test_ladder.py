"""The ladder against its equation, and that the base is run without a graph."""

import pytest
import torch

from pairtune.errors import InputError
from pairtune.pair.base import Base
from pairtune.tuners.ladder import Ladder
from pairtune.tuners.lora import LoRA

IDS = torch.tensor([[1, 5, 9, 12, 7, 4], [1, 8, 30, 6, 11, 2]])
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


def install(folder):
    base = Base.load(folder, task="classification", labels=["a", "b", "c"])
    torch.manual_seed(0)
    installed = Ladder(reduction=4).install(base, base.model)
    for name, parameter in installed.trainable():
        if name.startswith("side."):
            torch.nn.init.normal_(parameter, std=0.3)
    return base, installed


def mlp(p, i, x):
    normed = torch.nn.functional.layer_norm(x, x.shape[-1:], p[f"blocks.{i}.norm.weight"], p[f"blocks.{i}.norm.bias"])
    inner = torch.nn.functional.gelu(normed @ p[f"blocks.{i}.up.weight"].T + p[f"blocks.{i}.up.bias"])
    return x + inner @ p[f"blocks.{i}.down.weight"].T + p[f"blocks.{i}.down.bias"]


def test_the_logits_are_those_of_the_equation(tiny_llama):
    base, installed = install(tiny_llama)
    with torch.no_grad():
        found = installed.model.eval()(**BATCH).logits
        installed.off()
        plain = base.model(**BATCH, output_hidden_states=True)
    p = {name: value.detach().double() for name, value in installed.model.side.named_parameters()}
    hidden = [h.double() for h in plain.hidden_states[:-1]]  # the last one is already normed
    last = {}
    hook = base.model.model.norm.register_forward_pre_hook(lambda _m, args: last.update(h=args[0].double()))
    with torch.no_grad():
        base.model(**BATCH)
    hook.remove()
    hidden.append(last["h"])
    side = hidden[0] @ p["down.0.weight"].T + p["down.0.bias"]
    for i in range(1, len(hidden)):
        gate = torch.sigmoid(p["gates"][i - 1] / 0.1)
        rung = hidden[i] @ p[f"down.{i}.weight"].T + p[f"down.{i}.bias"]
        side = mlp(p, i - 1, gate * rung + (1 - gate) * side)
    normed = torch.nn.functional.layer_norm(side, side.shape[-1:], p["norm.weight"], p["norm.bias"])
    added = (hidden[-1] + normed @ p["up.weight"].T + p["up.bias"]).float()
    with torch.no_grad():
        expected = base.model.lm_head(base.model.model.norm(added))
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_bert"])
def test_no_graph_is_kept_for_the_base(model, request):
    base, installed = install(request.getfixturevalue(model))
    kept = []
    hooks = [b.register_forward_hook(lambda _m, _a, o: kept.append(o.requires_grad)) for _, b in base.blocks[:-1]]
    loss = installed.model.train()(**BATCH).logits.square().mean()
    for hook in hooks:
        hook.remove()
    assert kept and not any(kept)
    loss.backward()
    assert all(p.grad is None for p in base.parameters.values())
    assert all(p.grad is not None and bool(p.grad.any()) for _, p in installed.trainable())


def test_off_the_base_is_the_base(tiny_llama):
    base, installed = install(tiny_llama)
    alone = Base.load(tiny_llama)
    with torch.no_grad():
        assert not torch.equal(installed.model(**BATCH).logits, alone.model(**BATCH).logits)
        installed.off()
        assert torch.equal(base.model(**BATCH).logits, alone.model(**BATCH).logits)
        installed.on()
        assert not torch.equal(installed.model(**BATCH).logits, alone.model(**BATCH).logits)


def test_it_stands_on_an_adapter(tiny_llama):
    base = Base.load(tiny_llama)
    lower = LoRA(r=2).install(base, base.model)
    for _, parameter in lower.trainable():
        torch.nn.init.normal_(parameter, std=0.1)
    installed = Ladder(reduction=4).install(base, lower.model)
    with torch.no_grad():
        assert torch.equal(installed.model(**BATCH).logits, lower.model(**BATCH).logits)
    assert all(name.startswith("side.") for name, _ in installed.trainable())


def test_an_encoder_decoder_is_refused_by_name(tiny_t5):
    base = Base.load(tiny_t5)
    with pytest.raises(InputError, match="encoder-decoder"):
        Ladder().install(base, base.model)
