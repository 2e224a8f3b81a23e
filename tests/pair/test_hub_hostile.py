"""Folders that bring code: not run, through any entry point; the file that asks for it is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import transformers
from transformers import AutoModel

from pairtune.errors import FormatError
from pairtune.pair import hub
from pairtune.pair.files import write_json

ENTRY_POINTS = {
    "config": hub.load_config,
    "tokenizer": hub.load_tokenizer,
    "model": lambda folder: hub.load_model(AutoModel, folder),
    "check": hub.refuse_remote_code,
}
CONFIGS = """config.json tokenizer_config.json processor_config.json preprocessor_config.json adapter_config.json
video_preprocessor_config.json generation_config.json config.5.0.0.json""".split()
AUTO_MAP = {
    "AutoConfig": "evil.Config",
    "AutoModel": "evil.Model",
    "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
    "AutoProcessor": "evil.Processor",
}


@pytest.fixture
def canary(tmp_path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def hostile(tiny_bert, tmp_path, canary) -> Path:
    """A checkpoint with Python files that make the canary when imported."""
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "hostile"))
    code = f"open({str(canary)!r}, 'w')\nfrom transformers import BertConfig as Config, BertModel as Model\n"
    for name in ("evil.py", "configuration_evil.py", "__init__.py", "setup.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    return folder


def add(path: Path, **entries: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, {**content, **entries})


def test_the_code_works_where_it_is_trusted(hostile, canary, tmp_path, in_child):
    """The control: transformers, told to trust, runs this very file."""
    add(hostile / "config.json", auto_map=AUTO_MAP, model_type="evil")

    def child() -> None:
        transformers.dynamic_module_utils.HF_MODULES_CACHE = str(tmp_path / "modules")
        transformers.AutoConfig.from_pretrained(hostile, trust_remote_code=True, local_files_only=True)

    in_child(child)
    assert canary.exists()


def test_python_files_in_a_folder_are_not_imported(hostile, canary):
    for load in ENTRY_POINTS.values():
        load(hostile)
    assert not canary.exists()


@pytest.mark.parametrize("entry", ENTRY_POINTS)
@pytest.mark.parametrize("name", CONFIGS)
def test_auto_map_is_refused_by_the_name_of_its_file(hostile, canary, entry, name):
    add(hostile / name, auto_map=AUTO_MAP)
    with pytest.raises(FormatError, match=f"{name}: auto_map asks for Python code"):
        ENTRY_POINTS[entry](hostile)
    assert not canary.exists()


@pytest.mark.parametrize("entry", ENTRY_POINTS)
@pytest.mark.parametrize(
    "entries, message",
    [
        ({"text_config": {"auto_map": AUTO_MAP}}, "auto_map"),
        ({"parts": [[{"auto_map": {"AutoModel": "owner/repo--evil.Model"}}]]}, "auto_map"),
        ({"attn_implementation": "owner/kernel"}, "asks for a kernel from the hub"),
        ({"_attn_implementation_internal": "owner/kernel@main:name"}, "asks for a kernel from the hub"),
        ({"vision": {"_experts_implementation": {"": "owner/kernel"}}}, "asks for a kernel from the hub"),
        ({"transformers_weights": "adapter_model.bin"}, "its own weights file"),
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, "trust_remote_code"),
    ],
)
def test_other_ways_to_code_are_refused(hostile, canary, entry, entries, message):
    add(hostile / "config.json", **entries)
    with pytest.raises(FormatError, match=f"config.json: .*{message}"):
        ENTRY_POINTS[entry](hostile)
    assert not canary.exists()


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"auto_mapping": {"base_model_class": "Model", "parent_library": "evil"}}, "import of 'evil'"),
        (
            {"auto_mapping": {"base_model_class": "M", "parent_library": "transformers_modules.x"}},
            "transformers_modules",
        ),
        ({"auto_mapping": "evil"}, "import of 'evil'"),
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "import of 'evil'"),
        ({"prompt_tuning_init_state_dict_path": "x.bin"}, "PEFT would unpickle"),
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, "trust_remote_code"),
    ],
)
def test_what_an_adapter_may_not_ask_for(tmp_path, entries, message):
    add(tmp_path / "adapter_config.json", peft_type="LORA", **entries)
    with pytest.raises(FormatError, match=f"adapter_config.json: .*{message}"):
        hub.refuse_remote_code(tmp_path)


def test_what_honest_folders_hold_passes(tiny_bert, tiny_llama, tiny_t5, tmp_path):
    for folder in (tiny_bert, tiny_llama, tiny_t5):
        hub.refuse_remote_code(folder)
    mapping = {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama.modeling_llama"}
    add(tmp_path / "adapter_config.json", auto_mapping=mapping, megatron_core="megatron.core", megatron_config=None)
    add(tmp_path / "config.json", auto_map={}, attn_implementation="sdpa", time_step_limit=[0, 1])
    (tmp_path / "tokenizer.json").write_text("a large file that is not read here")
    (tmp_path / "broken").symlink_to("/nowhere")  # not of a kind that loaders open
    hub.refuse_remote_code(tmp_path)


@pytest.mark.parametrize("with_weights", [True, False], ids=["beside weights", "alone"])
def test_pickles_are_not_opened(tiny_bert, tmp_path, canary, opened_in, with_weights):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    bomb = f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode()
    names = "pytorch_model.bin adapter_model.bin optimizer.pt rng_state.pth training_args.bin scheduler.pt vocab.pkl"
    for name in [*names.split(), "head.joblib"]:
        (folder / name).write_bytes(bomb)
    if not with_weights:
        (folder / "model.safetensors").unlink()
    with opened_in(folder) as opened:
        hub.load_config(folder)
        hub.load_tokenizer(folder)
        if with_weights:
            hub.load_model(AutoModel, folder)
        else:
            with pytest.raises(FormatError, match="pickles, which can run any code.*safetensors"):
                hub.load_model(AutoModel, folder)
    assert {Path(path).suffix for path in opened} <= {".json", ".safetensors", ".jinja", ".txt", "", "."}
    assert not canary.exists()
