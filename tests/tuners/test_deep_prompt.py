"""Learnt positions: what a block reads is the paper's concatenation, masks hold, misfits are refused."""

import pytest
import torch
from transformers import ModernBertConfig, ModernBertForSequenceClassification

from pairtune import registry
from pairtune.errors import InputError
from pairtune.pair.base import Base

LABELS = ["a", "b"]


def on(folder, **settings):
    base = Base.load(folder, task="classification", labels=LABELS)
    torch.manual_seed(0)
    return base, registry.build("tuners", "deep-prompt", {"prompts": 3, **settings}).install(base, base.model)


def by_hand(base, side, ids, mask):
    """The pooled logits of a BERT whose layers are called one by one on what the paper says."""
    model, (count, width) = base.model, side.weight.shape[1:]
    with torch.no_grad():
        hidden = model.bert.embeddings(input_ids=ids)
        wide = torch.cat([mask, torch.ones(len(ids), count)], 1)[:, None, None, :]
        bias = (1 - wide) * torch.finfo(torch.float32).min
        for i, layer in enumerate(model.bert.encoder.layer):
            if len(side.weight) > 1 or i == 0:
                hidden = torch.cat([hidden, side.weight[i].expand(len(ids), count, width)], 1)
            found = layer(hidden, bias)
            hidden = found[0] if isinstance(found, tuple) else found
            if len(side.weight) > 1:
                hidden = hidden[:, :-count]
        return model.classifier(model.bert.pooler(hidden[:, : ids.shape[1]]))


@pytest.mark.parametrize("every", [True, False])
def test_blocks_read_the_input_and_the_prompts(tiny_bert, every):
    base, installed = on(tiny_bert, every=every)
    ids = torch.tensor([[1, 5, 9, 12], [1, 8, 0, 0]])
    mask = (ids != 0).long()
    found = installed.model(input_ids=ids, attention_mask=mask).logits
    installed.off()
    expected = by_hand(base, installed.model.side, ids, mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (base.model(input_ids=ids, attention_mask=mask).logits - expected).abs().max() > 1e-4


def test_padding_does_not_matter(tiny_bert):
    _, installed = on(tiny_bert)
    alone = installed.model(input_ids=torch.tensor([[1, 8]]), attention_mask=torch.ones(1, 2).long()).logits
    ids = torch.tensor([[1, 8, 0, 0, 0]])
    padded = installed.model(input_ids=ids, attention_mask=(ids != 0).long()).logits
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=0)


def test_the_count_is_blocks_times_prompts_times_width(tiny_bert):
    base, installed = on(tiny_bert)
    assert installed.model.side.weight.numel() == len(base.blocks) * 3 * base.hidden_size
    assert on(tiny_bert, every=False)[1].model.side.weight.numel() == 3 * base.hidden_size


def test_language_models_and_rotary_encoders_are_refused(tiny_llama, tiny_bert, tmp_path):
    base = Base.load(tiny_llama)
    with pytest.raises(InputError, match="prefix_tuning"):
        registry.build("tuners", "deep-prompt", {}).install(base, base.model)
    config = ModernBertConfig(
        vocab_size=128, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_labels=2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, attn_implementation="eager",
    )  # fmt: skip
    ModernBertForSequenceClassification(config).save_pretrained(tmp_path)
    Base.load(tiny_bert).tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="rotary"):
        on(tmp_path)
