"""The only place that lets transformers load something, and the only one that fetches from the hub.

Whatever is asked for first becomes a local folder; the folder is checked; then transformers opens that folder, without
a network, from safetensors only and without running code from it. So the bytes that were checked are those that load.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.errors import FormatError, InputError, PairtuneError
from pairtune.pair.complete import MARKER
from pairtune.pair.disk import writing
from pairtune.pair.files import checkpoint_files, open_safetensors
from pairtune.pair.inspect_folder import refuse_remote_code

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from pairtune.pair.processor import Processor

# What may be fetched: weights without code, configuration, vocabularies, chat templates. No pickle and no Python.
FETCHED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.md", MARKER]
_NOT_FETCHED = ["consolidated*", "original/*", "onnx/*", "openvino/*"]  # second copies of the weights
_SAFE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
ADAPTER_FILE = "adapter_config.json"  # by which a PEFT folder is known


def local_folder(source: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: a local one as it is, or a hub id's snapshot at `revision`, downloaded if need be.

    A download that was interrupted or is incomplete is never returned. Raises `InputError` when there is no such folder
    or model or revision, when access to it is restricted, or when it is not cached and the hub cannot be reached.
    """
    if not str(source):
        raise InputError("expected a model: the name of a local folder, or 'owner/model' on the hub")
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise InputError(f"{source} is a local folder and has no revision {revision!r}; leave the revision out")
        return folder
    name = str(source)
    if folder.exists():
        raise InputError(f"{name} is a file; expected the folder of a model, or its name on the hub")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith((".", "~")):
        raise InputError(f"{name}: there is no such folder, and a name on the hub looks like 'owner/model'")
    return _fetch(name, revision)


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import constants, errors, snapshot_download

    what = f"{name!r}" if revision is None else f"{name!r} at revision {revision!r}"
    try:
        with writing(Path(constants.HF_HUB_CACHE), only_full=True):
            found = snapshot_download(name, revision=revision, allow_patterns=FETCHED, ignore_patterns=_NOT_FETCHED)
        return Path(found)
    except errors.GatedRepoError:
        raise InputError(
            f"{what}: access to this model is restricted; accept its terms at https://huggingface.co/{name} and log in "
            "with `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{what}: there is no such folder here and no such model on the hub; check the name, or, if it is private, "
            "log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{what}: the model has no such revision; give a branch, a tag or a commit") from None
    except errors.LocalEntryNotFoundError as error:  # also a snapshot whose download was interrupted
        off = "is switched off (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "cannot be reached"
        partial = isinstance(error, getattr(errors, "IncompleteSnapshotError", ()))
        kind = "only a part of it is" if partial else "it is not"
        raise InputError(
            f"{what}: there is no such folder here, {kind} in the hub's cache, and the hub {off}; give a local folder, "
            "or run once with a connection"
        ) from None
    except errors.HFValidationError:
        raise InputError(f"{what}: there is no such folder, and the hub does not allow such a name") from None
    except PairtuneError:
        raise
    except Exception as error:  # the hub's own failure, a connection that broke: their errors come from many libraries
        raise InputError(f"{what}: the hub did not give this model: {_first_line(error)}; try again later") from error


def load_config(source: str | Path, revision: str | None = None) -> PretrainedConfig:
    """The model's configuration. Raises as `local_folder`, and `FormatError` for a damaged one or one with code."""
    from transformers import AutoConfig

    folder = _checked(source, revision)
    with _loading(folder, "its configuration"):
        return AutoConfig.from_pretrained(folder, **_SAFE)


def load_tokenizer(source: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises as `load_config`.

    Its chat template is not run here; transformers renders it in jinja's immutable sandbox.
    """
    from transformers import AutoTokenizer

    folder = _checked(source, revision)
    with _loading(folder, "its tokenizer"):
        return AutoTokenizer.from_pretrained(folder, **_SAFE)


def load_processor(source: str | Path, modality: str, channels: int = 3) -> Processor:
    """What turns images or sound into the model's input, in a tokenizer's place. Raises as `load_config`.

    Args:
        modality: "image" or "audio". channels: of the images that the model takes.
    """
    from pairtune.pair.processor import PROCESSOR_FILE, AudioProcessor, ImageProcessor

    folder = _checked(source, None)
    if not (folder / PROCESSOR_FILE).is_file():
        raise FormatError(
            f"{folder}: there is no {PROCESSOR_FILE}, which says how {modality} becomes the model's input; copy it "
            "from the original model"
        )
    with _loading(folder, "its processor"):
        if modality == "audio":
            from transformers import AutoFeatureExtractor

            return AudioProcessor(AutoFeatureExtractor.from_pretrained(folder, **_SAFE))
        from transformers import AutoImageProcessor

        return ImageProcessor(AutoImageProcessor.from_pretrained(folder, backend="pil", **_SAFE), channels)


def load_model(
    auto_class: Any,
    source: str | Path,
    *,
    revision: str | None = None,
    allow_new: Callable[[str], bool] | None = None,
    **keywords: Any,
) -> tuple[PreTrainedModel, dict[str, list]]:
    """A model with every tensor from its checkpoint, and transformers' loading info (lists, sorted).

    Args:
        auto_class: a transformers Auto class or model class.
        allow_new: says of a tensor's name whether it may be missing, of another shape (both then are newly initialised)
            or unused; the new head, and the old one in its place.
        keywords: for `from_pretrained`.

    Raises `FormatError` that lists every other tensor that is missing, unused or of another shape, and for damaged
    files.
    """
    folder = _checked(source, revision)
    if (folder / ADAPTER_FILE).exists():
        raise FormatError(f"{folder}: adapter_config.json makes this a PEFT adapter, not a model; load it as a pair")
    for path in checkpoint_files(folder):
        open_safetensors(path)
    # Another shape is let through here so that all that is wrong can be listed together below.
    fixed = {**_SAFE, "use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with _loading(folder, "the model"):
        model, info = auto_class.from_pretrained(folder, **keywords, **fixed)
    found = {kind: sorted(names, key=str) for kind, names in info.items()}
    _refuse_differences(folder, model, found, allow_new or (lambda name: False))
    return model, found


def _refuse_differences(folder: Path, model: Any, info: dict[str, list], allowed: Callable[[str], bool]) -> None:
    problems = []
    for kind, words in (("missing_keys", "missing from the checkpoint"), ("unexpected_keys", "not used by the model")):
        if names := [name for name in info[kind] if not allowed(name)]:
            problems.append(f"{len(names)} {words}: {', '.join(names[:10])}")
    for name, stored, expected in info["mismatched_keys"]:
        if not allowed(name):
            problems.append(f"{name} has the shape {list(stored)}, expected {list(expected)}")
    problems += info.get("error_msgs", [])
    if problems:
        raise FormatError(
            f"{folder}: its tensors do not fit {type(model).__name__}: {'; '.join(problems)}. Nothing is initialised "
            "at random in silence; take a complete checkpoint of this architecture"
        )


def _checked(source: str | Path, revision: str | None) -> Path:
    folder = local_folder(source, revision)
    refuse_remote_code(folder)
    return folder


@contextmanager
def _loading(folder: Path, what: str) -> Iterator[None]:
    """Without transformers' bars and reports; whatever a damaged file makes it raise becomes a `FormatError`."""
    import torch
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (PairtuneError, MemoryError, torch.OutOfMemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in tokenizers is no Exception
        raise FormatError(f"{folder}: transformers cannot load {what}: {_first_line(error)}") from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
