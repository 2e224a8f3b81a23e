"""What the tests of several reproductions stand on."""

import pytest
import torch
from tests.conftest import save


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random decoder of one block with the zoo's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from pairtune.pair import hub
    from pairtune.zoo import path

    tokenizer = hub.load_tokenizer(path("tiny-lm"))
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, max_position_embeddings=64, **sizes)
    torch.manual_seed(0)
    return save(tmp_path_factory.mktemp("base"), LlamaForCausalLM(config), tokenizer)
