"""LoRA on real weights and real data: 77 intents of bank customers, with the settings that the documentation gives."""

import pytest

from pairtune import Task, evaluate, tune


@pytest.mark.soak
@pytest.mark.data
@pytest.mark.offline
def test_lora_on_minilm_reaches_nine_of_ten_banking_intents(data_folder, tmp_path):
    training = {"lr": 2e-3, "epochs": 8, "batch_size": 32, "precision": "bf16", "max_length": 48}
    data = str(data_folder / "banking77")
    pair = tune(
        {"base": "zoo:minilm", "data": data, "tuner": "lora", "training": training, "out": str(tmp_path / "pair")}
    )
    report = evaluate(pair, Task.load(data), splits=["test"])
    assert report.metrics["test"]["variant"]["accuracy"] >= 0.90
