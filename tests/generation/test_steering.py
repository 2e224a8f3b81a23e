"""Steering vectors: their files, their hooks, the positions that they reach, and what is refused."""

import json
import logging

import pytest
import torch
from safetensors.torch import save_file
from tests.ood.pairs import changed

from pairtune import Base, Pair, generate
from pairtune.errors import BaseMismatch, FormatError, InputError
from pairtune.generation.engine import Writer
from pairtune.generation.steering import steered
from pairtune.generation.vectors import SteeringVectors, parse
from pairtune.pair.views import hidden_states

TEXT = "who is the old man by the river"


@pytest.fixture(scope="module")
def pair(tiny_llama):
    return changed(Base.load(tiny_llama))


def vectors(pair, *blocks, scale=1.0):
    generator = torch.Generator().manual_seed(3)
    return SteeringVectors({b: scale * torch.randn(16, generator=generator) for b in blocks}, {"from": "noise"})


def batch(pair, text=TEXT):
    ids = torch.tensor([pair.tokenizer(text)["input_ids"]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_a_direction_is_added_behind_its_block_on_both_sides(pair):
    one = vectors(pair, 1)
    for enter in (pair.off, lambda: pair.at(1.0), lambda: pair.at(0.5)):
        with enter():
            before = hidden_states(pair, batch(pair), [1, 2])
            with steered(pair, one, "all"):
                after = hidden_states(pair, batch(pair), [1, 2])
            with steered(pair, [one, one.scaled(-0.5)]):
                last = hidden_states(pair, batch(pair), [2])
            assert torch.equal(after[1], before[1])
            torch.testing.assert_close(after[2] - before[2], one.directions[1].expand_as(before[2]))
            assert torch.equal(last[2][:, :-1], before[2][:, :-1])
            torch.testing.assert_close(last[2][0, -1] - before[2][0, -1], 0.5 * one.directions[1])
            assert torch.equal(hidden_states(pair, batch(pair), [2])[2], before[2])


def test_positions_can_be_named_row_by_row(pair):
    one, rows = vectors(pair, 2), batch(pair)
    where = torch.zeros(1, rows["input_ids"].shape[1], dtype=torch.bool)
    where[0, 3:5] = True
    before = hidden_states(pair, rows, [3])[3]
    with steered(pair, one) as steering, steering.answering(where):
        moved = hidden_states(pair, rows, [3])[3] - before
    torch.testing.assert_close(moved[0], where[0, :, None] * one.directions[2])


@torch.no_grad()
@pytest.mark.parametrize("positions", ["generated", "all"])
def test_every_step_of_cached_writing_is_steered(pair, positions):
    """The cache's steps against whole passes, in which the steered positions are named."""
    one = vectors(pair, 0, 2, scale=3.0)
    ids = batch(pair)["input_ids"]
    start = ids.shape[1]
    for _ in range(6):
        with steered(pair, one, positions) as steering, steering.answering(start):
            logits = pair.model(input_ids=ids).logits
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
    wanted = pair.tokenizer.decode(ids[0, start:].tolist(), skip_special_tokens=True)
    texts = [TEXT, "a", "the cat sat"]
    found = generate(pair, texts, vectors=[one], positions=positions, max_new_tokens=6)
    assert found[0] == wanted != generate(pair, TEXT, max_new_tokens=6)[0]
    assert found[1:] == [
        generate(pair, text, vectors=[one], positions=positions, max_new_tokens=6)[0] for text in texts[1:]
    ]


def test_an_encoder_decoder_is_steered_in_its_decoder(tiny_t5):
    pair = Pair(Base.load(tiny_t5))
    one = vectors(pair, 1, scale=50.0)
    assert generate(pair, TEXT, vectors=[one], max_new_tokens=5) != generate(pair, TEXT, max_new_tokens=5)
    with pytest.raises(InputError, match="behind block 2, .* has the blocks 0 to 1"):
        Writer(pair, vectors=[vectors(pair, 2)])


@pytest.mark.parametrize("ending", ["safetensors", "gguf"])
def test_a_file_holds_what_was_saved(pair, tmp_path, ending, caplog):
    pytest.importorskip("gguf")
    one = SteeringVectors(
        vectors(pair, 1, 3).directions, {"model_type": "llama", "n": 3}, pair.base.fingerprint.weights
    )
    path = tmp_path / f"one.{ending}"
    one.save(path)
    again = SteeringVectors.load(path)
    assert again.about == one.about and again.base == one.base and list(again.directions) == [1, 3]
    assert all(torch.equal(again.directions[b], one.directions[b]) for b in (1, 3))
    with caplog.at_level(logging.WARNING, "pairtune"):
        again.check(pair.base)
        assert not caplog.records
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_gguf_is_the_common_form(pair, tmp_path):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "one.gguf"
    vectors(pair, 0, 1).save(path)  # llama.cpp refuses a file with a direction behind block 0
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.layer_count"].contents() == 1
    assert [tensor.name for tensor in reader.tensors] == ["direction.1"]
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "controlvector")  # as other tools write it, in half precision
    writer.add_tensor("direction.2", torch.arange(16).half().numpy())
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    found = SteeringVectors.load(tmp_path / "other.gguf")
    assert torch.equal(found.directions[2], torch.arange(16.0)) and found.base is None
    with pytest.raises(InputError, match="adds nothing behind block 0"):
        vectors(pair, 0).save(path)


def test_damaged_and_foreign_files_are_refused(pair, tmp_path):
    gguf = pytest.importorskip("gguf")
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    vectors(pair, 1).save(good)
    data = good.read_bytes()
    bad.write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError, match=r"bad\.gguf: damaged"):
        SteeringVectors.load(bad)
    bad.write_bytes(b"PK" + data)
    with pytest.raises(FormatError, match="this is not a GGUF file"):
        SteeringVectors.load(bad)
    writer = gguf.GGUFWriter(bad, "llama")
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    with pytest.raises(FormatError, match="holds a model of the kind 'llama'"):
        SteeringVectors.load(bad)
    cases = [
        ({"weight": torch.ones(4)}, "expected tensors direction.0"),
        ({"direction.01": torch.ones(4)}, "found 'direction.01'"),
        ({"direction.1": torch.ones(4, 4)}, r"direction\.1 should be a row"),
        ({"direction.1": torch.full((4,), torch.nan)}, "finite numbers"),
        ({"direction.1": torch.ones(4), "direction.2": torch.ones(5)}, "several lengths"),
    ]
    for tensors, said in cases:
        save_file(tensors, tmp_path / "bad.safetensors")
        with pytest.raises(FormatError, match=said):
            SteeringVectors.load(tmp_path / "bad.safetensors")
    for about in ("[1]", "{", "[" * 10**5):
        save_file({"direction.1": torch.ones(4)}, tmp_path / "bad.safetensors", {"pairtune.about": about})
        with pytest.raises(FormatError, match="is no JSON object"):
            SteeringVectors.load(tmp_path / "bad.safetensors")


def test_another_base_is_refused(pair, tmp_path, caplog):
    plain = tmp_path / "plain.safetensors"
    save_file({"direction.1": torch.ones(16)}, plain)
    with caplog.at_level(logging.WARNING, "pairtune"):
        SteeringVectors.load(plain).check(pair.base)
    assert "UNVERIFIED" in caplog.text
    with pytest.raises(InputError, match=r"have 8 numbers, the residual stream of .* has 16"):
        SteeringVectors({1: torch.ones(8)}).check(pair.base)
    with pytest.raises(InputError, match="has the blocks 0 to 3"):
        SteeringVectors({4: torch.ones(16)}).check(pair.base)
    other = SteeringVectors({1: torch.ones(16)}, base="f" * 64)
    with pytest.raises(BaseMismatch, match="--onto steers with it all the same"):
        other.check(pair.base)
    other.check(pair.base, onto=True)


def test_words_are_parsed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:2").touch()
    assert (
        parse("v.gguf") == ("v.gguf", 1.0) and parse("v.gguf:-2.5") == ("v.gguf", -2.5) and parse("a:2") == ("a:2", 1)
    )
    for wrong in ("v.gguf:much", "v.gguf:nan", "v.gguf:"):
        with pytest.raises(InputError, match="is not a number"):
            parse(wrong)
    one = SteeringVectors({1: torch.ones(2), 3: torch.ones(2)}, json.loads("{}"))
    assert list(one.only(3).directions) == [3]
    with pytest.raises(InputError, match=r"no direction behind block 2 \(blocks: 1, 3\)"):
        one.only(2)
    with pytest.raises(InputError, match="finite number"):
        one.scaled(float("inf"))
