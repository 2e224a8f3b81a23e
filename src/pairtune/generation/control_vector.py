"""The control-vector form of GGUF (llama.cpp, repeng): `general.architecture = controlvector`, tensors `direction.N`.

direction.N is added behind block N, counted from 0. llama.cpp adds none behind block 0 and refuses a file that has one.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pairtune.errors import FormatError, InputError
from pairtune.pair.disk import check_room, hidden_beside, open_regular, writing

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.generation.vectors import SteeringVectors

log = logging.getLogger("pairtune")
ARCHITECTURE = "controlvector"


def read_control_vector(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file by name, in float32, and the texts that it holds beside them.

    Raises `FormatError` for a file that is damaged or no control vector, `InputError` without the package gguf.
    """
    gguf = _library()
    with open_regular(path) as file:
        if file.read(4) != b"GGUF":
            raise FormatError(f"{path}: this is not a GGUF file")
    try:
        reader = gguf.GGUFReader(path)
        texts = {name: field.contents() for name, field in reader.fields.items() if _is_text(gguf, field)}
        tensors = {
            one.name: torch.from_numpy(gguf.quants.dequantize(one.data, one.tensor_type).copy())
            for one in reader.tensors
        }
    except Exception as error:  # the reader checks nothing, so that a damaged file raises whatever it runs into
        raise FormatError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    if texts.get("general.architecture") != ARCHITECTURE:
        found = texts.get("general.architecture")
        raise FormatError(f"{path}: expected a control vector, this GGUF file holds a model of the kind {found!r}")
    return tensors, texts


def write_control_vector(vectors: SteeringVectors, path: Path) -> None:
    """Write the file, whole or not at all; a direction behind block 0 is left out, with a line in the log.

    Raises `InputError` where nothing else is there, or without the package gguf.
    """
    gguf = _library()
    directions = {block: one for block, one in sorted(vectors.directions.items()) if block > 0}
    if not directions:
        raise InputError(f"{path}: a control vector adds nothing behind block 0; write a .safetensors file")
    if len(directions) < len(vectors.directions):
        log.warning("%s: the direction behind block 0 is left out, as control vectors have none there", path)
    partial = hidden_beside(path, "tmp")
    with writing(path):
        check_room(path, 4 * vectors.width * len(directions))
        try:
            writer = gguf.GGUFWriter(partial, ARCHITECTURE)
            writer.add_string(f"{ARCHITECTURE}.model_hint", str(vectors.about.get("model_type", "")))
            writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(directions))
            for name, text in vectors.notes().items():
                writer.add_string(name, text)
            for block, one in directions.items():
                writer.add_tensor(f"direction.{block}", one.detach().cpu().float().numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _is_text(gguf: Any, field: Any) -> bool:
    return list(field.types) == [gguf.GGUFValueType.STRING]


def _library() -> Any:
    try:
        import gguf
        import gguf.quants
    except ImportError:
        raise InputError("GGUF files need the package gguf: pip install 'pairtune[gguf]'") from None
    return gguf
