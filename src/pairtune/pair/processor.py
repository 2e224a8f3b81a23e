"""What stands where a language model has its tokenizer: turns an image or a recording into the model's input.

Resizing, normalisation and log-mel come from transformers' own processors, which a model's folder describes in
`preprocessor_config.json` (Pillow's and NumPy's forms of them; torchvision and torchaudio are not used).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pairtune.errors import DataError
from pairtune.pair.modality import AUDIO, IMAGE, Modality

if TYPE_CHECKING:
    from PIL.Image import Image

PROCESSOR_FILE = "preprocessor_config.json"
_DECIDES = (
    "do_resize size resample do_center_crop crop_size do_rescale rescale_factor do_normalize image_mean image_std "
    "do_pad pad_size sampling_rate num_mel_bins max_length mean std feature_size"
).split()


class Processor:
    """transformers' processor of a folder, for one item at a time.

    Attributes:
        modality: what it reads. inner: transformers' processor.
        positions: T, how many positions the base makes of each input; known once the base is loaded.
    """

    positions = 0

    def __init__(self, inner: Any, modality: Modality):
        self.inner, self.modality = inner, modality

    def digest(self) -> str:
        """SHA-256 over the settings that decide what an input becomes."""
        settings = self.inner.to_dict()
        content = {name: settings.get(name) for name in _DECIDES}
        return hashlib.sha256(json.dumps([self.modality.name, content], sort_keys=True).encode()).hexdigest()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json`."""
        self.inner.save_pretrained(folder)

    def __call__(self, items: Sequence[Any]) -> list[np.ndarray]:
        """What the model takes of each item, float32."""
        raise NotImplementedError

    def example(self, number: int) -> np.ndarray:
        """The input that some noise becomes, the same in every run; for checks that need any input at all."""
        raise NotImplementedError


class ImageProcessor(Processor):
    """Images to [C, H, W].

    Args:
        channels: channels that the model takes: 3 (grey images are repeated, transparency is dropped) or 1.
    """

    def __init__(self, inner: Any, channels: int):
        super().__init__(inner, IMAGE)
        if channels not in (1, 3):
            raise DataError(f"the model takes images of {channels} channels; only grey (1) and colour (3) are known")
        self.channels = channels

    def __call__(self, items: Sequence[Image]) -> list[np.ndarray]:
        arrays = [self._array(one) for one in items]
        made = self.inner(arrays, input_data_format="channels_last")[IMAGE.key]
        return [np.asarray(one, dtype=np.float32) for one in made]

    def _array(self, image: Image) -> np.ndarray:
        array = np.asarray(image.convert("RGB" if self.channels == 3 else "L"))
        return array if array.ndim == 3 else array[..., None]

    def example(self, number: int) -> np.ndarray:
        from PIL import Image

        pixels = np.random.default_rng(number).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        return self([Image.fromarray(pixels)])[0]


class AudioProcessor(Processor):
    """Sound to log-mel spectrograms [frames, mel bins], cut on the right or filled up with silence."""

    def __init__(self, inner: Any):
        super().__init__(inner, AUDIO)
        self.rate: int = int(inner.sampling_rate)
        self._window = len(getattr(inner, "window", ())) or 400  # samples: shorter sound gives no frame at all

    def __call__(self, items: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
        waves = [self._wave(*one) for one in items]
        made = self.inner(waves, sampling_rate=self.rate)[AUDIO.key]
        return [np.asarray(one, dtype=np.float32) for one in made]

    def _wave(self, samples: np.ndarray, rate: int) -> np.ndarray:
        """One channel at the model's rate, as long as a window at least."""
        wave = samples.mean(axis=1) if samples.ndim == 2 else samples
        wave = resampled(wave, rate, self.rate)
        return np.pad(wave, (0, max(0, self._window - len(wave)))).astype(np.float32)

    def example(self, number: int) -> np.ndarray:
        wave = np.random.default_rng(number).standard_normal(self.rate).astype(np.float32)
        return self([(0.1 * wave, self.rate)])[0]


def resampled(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """A wave [N] of `rate` samples a second at another rate, by a polyphase filter; the same array at its own."""
    if rate == wanted:
        return wave
    from scipy.signal import resample_poly

    shared = gcd(rate, wanted)
    return resample_poly(wave, wanted // shared, rate // shared)
