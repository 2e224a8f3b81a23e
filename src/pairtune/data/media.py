"""An image or a recording in a row: where it is, decoded when it is asked for, known by a hash of its content."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

IMAGES = frozenset(".png .jpg .jpeg .bmp .gif .webp .tif .tiff .ppm .pgm".split())
SOUNDS = frozenset(".wav .flac .ogg .mp3 .aif .aiff .opus".split())
_MAGIC: list[tuple[bytes, str]] = [
    (b"\x89PNG", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF8", "image"),
    (b"BM", "image"),
    (b"II*\0", "image"),
    (b"MM\0*", "image"),
    (b"fLaC", "audio"),
    (b"OggS", "audio"),
    (b"ID3", "audio"),
    (b"FORM", "audio"),
    (b"\xff\xfb", "audio"),
    (b"\xff\xf3", "audio"),
]
_RIFF = {b"WAVE": "audio", b"WEBP": "image"}


class MediaError(ValueError):
    """An image or recording that cannot be used; the message says why, and not where it is."""


class Media:
    """One image or recording.

    Args:
        modality: "image" or "audio".
        source: its file, the file's bytes, or the pixels of an image [H, W] or [H, W, C] uint8.
        name: what it is called in messages, where the row's own place does not say it.
        segment: (first sample, number of samples) of a recording that is a part of its file.
    """

    def __init__(
        self,
        modality: Literal["image", "audio"],
        source: Path | bytes | np.ndarray,
        name: str | None = None,
        segment: tuple[int, int] | None = None,
    ):
        self.modality, self.source, self.name, self.segment = modality, source, name, segment
        self._digest: str | None = None

    @property
    def digest(self) -> str:
        """Hash of the content (32 hexadecimal digits): equal for copies under other names; reads the file once."""
        if self._digest is None:
            total = hashlib.blake2b(digest_size=16)
            if self.segment is not None:
                total.update(self._sound()[0].tobytes())
            elif isinstance(self.source, Path):
                total.update(self._bytes())
            elif isinstance(self.source, bytes):
                total.update(self.source)
            else:
                total.update(repr(self.source.shape).encode() + self.source.tobytes())
            self._digest = total.hexdigest()
        return self._digest

    def check(self) -> None:
        """Raise `MediaError` where there is no such file or nothing is in it; decodes nothing."""
        if isinstance(self.source, Path):
            if not self.source.is_file():
                raise MediaError("there is no such file")
            if not self.source.stat().st_size:
                raise MediaError("the file is empty (0 bytes)")
            if self.segment is not None:
                with self._recording():
                    pass
        elif isinstance(self.source, bytes) and not self.source:
            raise MediaError("there is nothing in it (0 bytes)")

    def decode(self) -> Any:
        """An image as Pillow's, or (samples [N] or [N, channels] float32, samples a second). Raises `MediaError`."""
        return self._image() if self.modality == "image" else self._sound()

    def failure(self, error: MediaError) -> str:
        """An error's message, with the name where the row's place does not say which file it is."""
        return f"{self.name}: {error}" if self.name else str(error)

    def _image(self) -> Image:
        from PIL import Image, ImageOps

        if not isinstance(self.source, Path | bytes):
            return Image.fromarray(self.source)
        try:
            with Image.open(self.source if isinstance(self.source, Path) else io.BytesIO(self.source)) as image:
                image.load()
                return _eight_bits(ImageOps.exif_transpose(image))
        except Exception as error:  # a damaged file makes Pillow raise almost anything
            raise MediaError(f"not a readable image ({_first_line(error, self.source)})") from None

    def _sound(self) -> tuple[np.ndarray, int]:
        import numpy as np

        with self._recording() as file:
            samples, rate = file.read((self.segment or (0, -1))[1], dtype="float32"), int(file.samplerate)
        if not len(samples):
            raise MediaError("the recording is empty (0 samples)")
        if not np.isfinite(samples).all():
            raise MediaError("the recording holds NaN or infinite samples")
        return samples, rate

    @contextmanager
    def _recording(self) -> Iterator[Any]:
        """The opened file, at the first sample that is wanted."""
        import soundfile

        assert isinstance(self.source, Path | bytes)
        start, count = self.segment or (0, 0)
        try:
            with soundfile.SoundFile(self.source if isinstance(self.source, Path) else io.BytesIO(self.source)) as file:
                if start + count > len(file):
                    raise MediaError(f"samples {start} to {start + count} are asked for, it has {len(file)}")
                file.seek(start)
                yield file
        except soundfile.SoundFileError as error:
            raise MediaError(f"not a readable recording ({_first_line(error, self.source)})") from None

    def _bytes(self) -> bytes:
        assert isinstance(self.source, Path)
        try:
            return self.source.read_bytes()
        except OSError as error:
            raise MediaError(f"cannot be read ({error.strerror or error})") from None

    def __str__(self) -> str:
        if isinstance(self.source, Path):
            return str(self.source) + (f" from sample {self.segment[0]}" if self.segment else "")
        return self.name or f"an {self.modality} in memory"

    def __repr__(self) -> str:
        short = "/".join(self.source.parts[-2:]) if isinstance(self.source, Path) else str(self)
        return f"<{self.modality} {short}{f' at {self.segment[0]}' if self.segment else ''}>"


def plain(value: Any) -> str:
    """What stands for a value that JSON does not have, where rows are compared: content, not place, of media."""
    return f"{value.modality} {value.digest}" if isinstance(value, Media) else repr(value)


def modality_by_name(name: str) -> Literal["image", "audio"] | None:
    """What a file is by its suffix."""
    suffix = Path(name).suffix.lower()
    return "image" if suffix in IMAGES else "audio" if suffix in SOUNDS else None


def modality_by_content(data: bytes) -> str | None:
    """What a file's first bytes say that it is."""
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12])
    return next((what for magic, what in _MAGIC if data.startswith(magic)), None)


def _eight_bits(image: Image) -> Image:
    """Images of 16 bits or floating point scaled to 8 bits, which Pillow would cut off at 255."""
    import numpy as np
    from PIL import Image as pillow

    if image.mode[0] not in "IF":
        return image.copy() if image.mode != "P" else image.convert("RGBA" if "transparency" in image.info else "RGB")
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinite pixels")
    if image.mode[0] == "F":
        scale = 255.0 if values.max(initial=0.0) <= 1 else 1.0
    else:
        scale = 1 / 257 if values.max(initial=0.0) > 255 else 1.0
    return pillow.fromarray(np.clip(values * scale, 0, 255).round().astype(np.uint8))


def _first_line(error: BaseException, source: Any) -> str:
    """The first line of a library's message, without the path that ours begins with, or an address in memory."""
    text = next(iter(str(error).strip().splitlines()), type(error).__name__)
    text = re.sub(r"<_io.BytesIO object at \w+>", "it", text)
    return text.replace(repr(str(source)), "it").replace(str(source), "it") if isinstance(source, Path) else text
