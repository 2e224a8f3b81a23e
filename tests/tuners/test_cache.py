"""The activation cache: equal to computing, kept between runs, bounded, and refused where the data changes."""

import logging

import numpy as np
import pytest
import torch

from pairtune.errors import InputError
from pairtune.pair.base import Base
from pairtune.pair.pair import Layer, Pair
from pairtune.tuners.cache import ActivationCache
from pairtune.tuners.head import Head
from pairtune.tuners.levi import Levi
from pairtune.tuners.lora import LoRA

ROWS = 10


def split():
    """Ten texts of 3 to 8 tokens."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(4, 60, (3 + i % 6,), generator=generator) for i in range(ROWS)]


def batch_of(texts, index, pad=0):
    length = max(len(texts[i]) for i in index) + pad
    ids = torch.stack([torch.nn.functional.pad(texts[i], (0, length - len(texts[i]))) for i in index])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "index": torch.tensor(index)}


def install(tuner, folder):
    base = Base.load(folder, task="classification", labels=["a", "b", "c"])
    torch.manual_seed(0)
    return base, tuner.install(base, base.model)


def opened(root, base, installed, **changes):
    return ActivationCache.open(
        root,
        base,
        installed,
        **{"data": "d", "rows": ROWS, "max_length": 16, **changes},  # type: ignore[arg-type]
    )


TUNERS = {"levi": Levi(small_width=8, hidden=6), "head": Head()}


@pytest.mark.parametrize("name", TUNERS)
def test_what_is_read_is_what_was_computed_whatever_the_batches(name, tiny_bert, tmp_path):
    base, installed = install(TUNERS[name], tiny_bert)
    texts, cache = split(), opened(tmp_path, base, installed)
    for index in ([3, 1, 4, 0], [9, 2, 6, 5], [8, 7]):
        cache.features(batch_of(texts, index), installed.features)
    assert cache.computed == ROWS

    def forbidden(_batch):
        raise AssertionError("the base was run although all rows are known")

    for index, pad in (([0, 1, 2], 3), ([9, 3], 0), ([5, 5, 4], 1)):
        batch = batch_of(texts, index, pad)
        read, computed = cache.features(batch, forbidden), installed.features(batch)
        assert read.keys() == computed.keys()
        assert all(torch.allclose(read[key], computed[key], atol=1e-5) for key in read)
        with torch.no_grad():
            inputs = {key: value for key, value in batch.items() if key != "index"}
            installed.model.eval()
            assert torch.allclose(
                installed.model(features=read, **inputs).logits, installed.model(**inputs).logits, atol=1e-5
            )
    later = opened(tmp_path, base, installed)  # another run
    later.features(batch_of(texts, list(range(ROWS))), forbidden)
    assert later.computed == 0


def test_a_head_trains_alike_from_the_cache(tiny_bert, tmp_path):
    weights = []
    for cached in (False, True):
        base, installed = install(Head(), tiny_bert)
        cache, texts = opened(tmp_path, base, installed), split()
        optimizer = torch.optim.AdamW([p for _, p in installed.trainable()], lr=1e-2)
        installed.model.train()
        torch.manual_seed(1)
        for epoch in range(3):
            for start in range(0, ROWS, 5):
                batch = batch_of(texts, list(range(start, start + 5)))
                features = {"features": cache.features(batch, installed.features)} if cached else {}
                inputs = {key: value for key, value in batch.items() if key != "index"}
                optimizer.zero_grad()
                loss = installed.model(**features, **inputs).logits.square().mean()
                loss.backward()
                optimizer.step()
            assert cache.computed == (ROWS if cached else 0), epoch
        weights.append(torch.cat([p.detach().flatten() for _, p in installed.trainable()]))
    assert torch.allclose(*weights, atol=1e-5)


def test_other_tokens_in_a_row_are_refused(tiny_bert, tmp_path):
    base, installed = install(TUNERS["levi"], tiny_bert)
    texts, cache = split(), opened(tmp_path, base, installed)
    cache.features(batch_of(texts, [0, 1, 2]), installed.features)
    texts[1] = texts[1].flip(0)
    with pytest.raises(InputError, match="row 1 .*augmentation"):
        cache.features(batch_of(texts, [0, 1, 2]), installed.features)


def test_it_stays_within_its_bytes(tiny_bert, tmp_path, caplog):
    base, installed = install(TUNERS["levi"], tiny_bert)
    texts = split()
    a_row = 3 * 16 * 4 + 13
    with caplog.at_level(logging.INFO, logger="pairtune"):
        cache = opened(tmp_path, base, installed, limit=4 * a_row)
        for _ in range(2):
            for index in ([0, 1, 2, 3], [4, 5, 6, 7]):
                found = cache.features(batch_of(texts, index), installed.features)
                assert torch.allclose(found["pooled"], installed.features(batch_of(texts, index))["pooled"], atol=1e-5)
    assert "4 of 10 rows" in caplog.text
    assert cache.computed == 12  # rows 0 to 3 once, 4 to 7 twice
    assert sum(path.stat().st_size for path in cache.folder.glob("*.npy")) < 4 * a_row + 1024
    other = opened(tmp_path, base, installed, data="another split", limit=4 * a_row)
    other.features(batch_of(texts, [0]), installed.features)
    assert [path.name for path in tmp_path.iterdir()] == [other.folder.name]


def test_a_torn_row_is_computed_again(tiny_bert, tmp_path):
    base, installed = install(TUNERS["levi"], tiny_bert)
    texts, cache = split(), opened(tmp_path, base, installed)
    good = cache.features(batch_of(texts, [0, 1, 2]), installed.features)["pooled"]
    array = np.lib.format.open_memmap(cache.folder / "pooled.npy", mode="r+")
    array[1, 0, :4] = 0.0
    again = opened(tmp_path, base, installed)
    assert torch.equal(again.features(batch_of(texts, [0, 1, 2]), installed.features)["pooled"], good)
    assert again.computed == 3
    (cache.folder / "pooled.npy").write_bytes(b"not an array")
    third = opened(tmp_path, base, installed)
    assert torch.equal(third.features(batch_of(texts, [0, 1, 2]), installed.features)["pooled"], good)


def test_its_key_holds_all_that_the_features_depend_on(tiny_bert, tmp_path):
    base, installed = install(TUNERS["levi"], tiny_bert)
    folders = {opened(tmp_path, base, installed).folder}
    for changes in ({"data": "e"}, {"max_length": 8}, {"rows": 11}):
        folders.add(opened(tmp_path, base, installed, **changes).folder)
    for settings in ({"layers": "last"}, {"pool": "first"}, {"random_base": 1}, {"random_base": 2}):
        other, levi = install(Levi(small_width=8, hidden=6, **settings), tiny_bert)
        folders.add(opened(tmp_path, other, levi).folder)
    assert len(folders) == 8
    for alpha, std in ((8, 0.1), (16, 0.1), (8, 0.2)):
        stacked, lora = install(LoRA(r=2, alpha=alpha), tiny_bert)
        torch.manual_seed(0)
        for _, parameter in lora.trainable():
            torch.nn.init.normal_(parameter, std=std)
        pair = Pair(stacked, [Layer(lora, lambda: None)])  # type: ignore[arg-type]
        levi = TUNERS["levi"].install(stacked, pair.model)
        folders.add(opened(tmp_path, stacked, levi).folder)
    assert len(folders) == 11
    assert opened(tmp_path, *install(TUNERS["levi"], tiny_bert)).folder in folders
