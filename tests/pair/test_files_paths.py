"""JSON from strangers, paths that would leave their folder, and pickles that are never opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pairtune.errors import FormatError
from pairtune.pair.files import checkpoint_files, read_json, refuse_pickle, safe_join, write_json, write_safetensors

PICKLES = """pytorch_model.bin adapter_model.bin model.pt model.pth model.ckpt optimizer.pt rng_state.pth
training_args.bin scheduler.pt dataset.pkl features.pickle probe.joblib UPPER.PKL""".split()


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' occurs twice"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": [-Infinity]}', "-Infinity is not a number"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a": "\xe9"}', "not valid JSON"),
        (b'\xef\xbb\xbf{"a": 1}', "not valid JSON"),
        (rb'{"a": "\ud83d"}', "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "nested too deeply"),
        (b"[1]", "expected a JSON object, found list"),
        (b"", "not valid JSON"),
        (b'{"a": 1} x', "not valid JSON"),
        (b'{"a": "' + b"x" * 3000 + b'"}', "larger than 2,000 bytes"),
    ],
)
def test_json_that_is_not_what_it_should_be(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    limit = 2000 if b"xxx" in content else 1 << 20
    with pytest.raises(FormatError, match=message) as error:
        read_json(path, limit)
    assert str(path) in str(error.value)


def test_published_configs_with_infinity_can_be_read_where_asked(tmp_path):
    (tmp_path / "config.json").write_text('{"time_step_limit": [0.0, Infinity], "emoji": "\\ud83d\\ude00"}')
    assert read_json(tmp_path / "config.json", constants=True)["time_step_limit"][1] == float("inf")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..", "", "a\0b", "a\\..\\b", None, 3])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    with pytest.raises(FormatError, match="leads out|expected the name"):
        safe_join(tmp_path, name)


def test_links_may_stay_inside_and_may_not_leave(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    (root / "inner").symlink_to("sub/real")
    (root / "out").symlink_to(outside)
    (root / "chain").symlink_to("out")
    assert safe_join(root, "sub/x.safetensors") == root / "sub/x.safetensors"
    assert safe_join(root, "inner") == root / "inner"
    for name in ("out", "out/x", "chain", "sub/../x"):
        with pytest.raises(FormatError, match="leads out|symbolic link out"):
            safe_join(root, name)
    (tmp_path / "alias").symlink_to(root)  # the folder itself may be reached through a link
    assert safe_join(tmp_path / "alias", "sub/x") == tmp_path / "alias/sub/x"


def test_the_hub_cache_may_link_to_its_own_blobs_only(tmp_path):
    model = tmp_path / "models--owner--name"
    snapshot, blobs = model / "snapshots" / "abc", model / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "123").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/123")
    (snapshot / "evil.json").symlink_to("../../../other")
    assert safe_join(snapshot, "config.json").read_text() == "{}"
    with pytest.raises(FormatError, match="symbolic link out"):
        safe_join(snapshot, "evil.json")


def weights(path: Path, *names: str) -> None:
    write_safetensors(path, {name: torch.ones(2) for name in names})


def test_the_files_of_a_checkpoint(tmp_path):
    weights(tmp_path / "adapter_model.safetensors", "a")
    assert checkpoint_files(tmp_path) == [tmp_path / "adapter_model.safetensors"]
    shards = ["model-00001-of-00002.safetensors", "sub/model-00002-of-00002.safetensors"]
    (tmp_path / "sub").mkdir()
    weights(tmp_path / shards[0], "a", "b")
    weights(tmp_path / shards[1], "c")
    index = tmp_path / "model.safetensors.index.json"
    write_json(index, {"metadata": {}, "weight_map": {"a": shards[0], "c": shards[1], "b": shards[0]}})
    assert checkpoint_files(tmp_path) == [tmp_path / shard for shard in shards]
    (tmp_path / shards[1]).unlink()
    with pytest.raises(FormatError, match="shard 'sub/model-00002-of-00002.safetensors' is missing"):
        checkpoint_files(tmp_path)
    weights(tmp_path / "model.safetensors", "a")  # as in transformers, the single file goes first
    assert checkpoint_files(tmp_path) == [tmp_path / "model.safetensors"]


@pytest.mark.parametrize("kind", ["parent", "absolute", "link", "link to a folder"])
def test_a_shard_outside_of_the_folder_is_refused_and_not_opened(tmp_path, opened_in, kind):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    weights(outside / "x.safetensors", "a")
    (root / "link.safetensors").symlink_to(outside / "x.safetensors")
    (root / "sub").symlink_to(outside)
    name = {
        "parent": "../outside/x.safetensors",
        "absolute": str(outside / "x.safetensors"),
        "link": "link.safetensors",
        "link to a folder": "sub/x.safetensors",
    }[kind]
    write_json(root / "model.safetensors.index.json", {"metadata": {}, "weight_map": {"a": name}})
    with opened_in(outside) as control:
        (root / name).read_bytes()
    assert control, "the watch should see an opened file"
    with opened_in(outside) as opened, pytest.raises(FormatError, match="leads out|symbolic link out"):
        checkpoint_files(root)
    assert opened == []


@pytest.mark.parametrize("weight_map", [None, {}, [], "x", {"a": 3}, {"a": "pytorch_model.bin"}, {"a": "sub"}])
def test_an_index_of_another_form_is_refused(tmp_path, weight_map):
    (tmp_path / "sub").mkdir()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})
    with pytest.raises(FormatError, match="weight_map"):
        checkpoint_files(tmp_path)


@pytest.fixture
def pickle_bomb(tmp_path) -> tuple[bytes, Path]:
    """A pickle that makes a file when loaded, and that file."""
    canary = tmp_path / "canary"
    return f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode(), canary


def test_the_bomb_works(tmp_path, pickle_bomb):
    bomb, canary = pickle_bomb
    (tmp_path / "model.bin").write_bytes(bomb)
    with pytest.raises(RuntimeError, match="magic number"):
        torch.load(tmp_path / "model.bin", weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize("name", PICKLES)
def test_a_folder_of_pickles_is_refused_unopened(tmp_path, pickle_bomb, opened_in, name):
    bomb, canary = pickle_bomb
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / name).write_bytes(bomb)
    with opened_in(folder) as opened:
        for refuse in (lambda: checkpoint_files(folder), lambda: refuse_pickle(folder / name)):
            with pytest.raises(FormatError, match=f"{name}.*pickles.*safetensors.*save_pretrained"):
                refuse()
    assert [path for path in opened if name in path] == []
    assert not canary.exists()


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(FormatError, match="no weights here"):
        checkpoint_files(tmp_path)
    refuse_pickle(tmp_path / "model.safetensors")
    assert os.listdir(tmp_path) == []
