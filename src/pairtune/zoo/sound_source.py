"""Sounds for the zoo's spectrogram transformer: pieces of ESC-10 and voices made by rule, always new ones.

Pieces: windows of 0.96 s of ESC-10's environmental recordings (CC BY 3.0), at any place, of any loudness, over a little
noise. Voices: a buzzing tone of wandering pitch through three resonances that move from one vowel's to another's, which
is the class (8 x 8 of them); pitch, length, loudness, breath and speaker size are drawn anew. No word is spoken.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

RATE, FRAMES, BINS = 16_000, 96, 64
HOP, WINDOW, FFT, FLOOR = 160, 400, 512, 1.192092955078125e-07  # as ASTFeatureExtractor has them
SAMPLES = WINDOW + HOP * (FRAMES - 1)
HELD_FOLD = 5
# Resonances in Hz of eight vowels, about those of an adult: i, e, a, o, u, ae, y, schwa.
VOWELS = np.array(
    [[280, 2250, 2900], [400, 2000, 2600], [750, 1250, 2500], [450, 850, 2450],
     [310, 750, 2300], [650, 1700, 2450], [280, 1750, 2200], [500, 1400, 2400]], dtype=np.float64,
)  # fmt: skip
_WIDTHS = np.array([90.0, 120.0, 180.0])


class Sounds:
    """Labelled log-mel spectrograms by number.

    Attributes:
        names: the classes of ESC-10; classes: with those of the voices.
        mean, std: of the log-mel values of `looked_at` items, by which the model's input is normalised.
    """

    def __init__(self, data: Path, seed: int, looked_at: int = 1024):
        self.seed = seed
        clips: dict[int, list[tuple[np.ndarray, str]]] = {fold: _fold(data / "esc10", fold) for fold in range(1, 6)}
        self.names = sorted({label for part in clips.values() for _, label in part})
        self._clips = {
            held: [(wave, self.names.index(label)) for fold, part in clips.items() for wave, label in part
                   if (fold == HELD_FOLD) == held]
            for held in (False, True)
        }  # fmt: skip
        self.classes = len(self.names) + len(VOWELS) ** 2
        self._mel, self._centres = _mel_filters()
        self.mean, self.std = 0.0, 0.5  # for the first look, which is at the values themselves
        values = np.concatenate([self.batch(10**9 + first, 64)[0] for first in range(0, looked_at, 64)])
        self.mean, self.std = float(values.mean()), float(values.std())

    def batch(self, first: int, count: int, held: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """[count, frames, bins] float32, normalised, and the classes [count]; a half are voices.

        Args:
            held: pieces of the fold that training never hears.
        """
        generator = np.random.default_rng([self.seed, int(held), first])
        voice = generator.random(count) < 0.5
        labels, waves = np.empty(count, dtype=int), np.empty((count, SAMPLES))
        for i in np.flatnonzero(~voice):
            clip, labels[i] = self._clips[held][generator.integers(len(self._clips[held]))]
            waves[i] = _window(clip, generator)
        pairs = generator.integers(0, len(VOWELS) ** 2, count)
        labels[voice] = len(self.names) + pairs[voice]
        waves[voice] = _buzz(int(voice.sum()), generator)
        levels = np.exp(generator.uniform(np.log(0.02), np.log(0.5), count))
        loudest = np.abs(waves).max(1, keepdims=True).clip(1e-4)
        found = log_mel(waves / loudest * levels[:, None], self._mel)
        if voice.any():
            found[voice] += self._resonances(pairs[voice], generator)
        floor = log_mel(generator.normal(0, 1, (count, SAMPLES)) * _noise_level(count, generator), self._mel)
        found = np.logaddexp(found, floor)
        return ((found - self.mean) / (2 * self.std)).astype(np.float32), labels

    def _resonances(self, pairs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """[n, frames, bins]: what the moving resonances and the voice's beginning and end add to its log-mel."""
        count = len(pairs)
        size = generator.uniform(0.85, 1.2, (count, 1, 1))
        start, stop = VOWELS[pairs // len(VOWELS)], VOWELS[pairs % len(VOWELS)]
        length = generator.uniform(0.2, 0.9, (count, 1)) * FRAMES
        begin = generator.uniform(0, 1, (count, 1)) * (FRAMES - length)
        at = (np.arange(FRAMES)[None] - begin) / length
        path = 1 / (1 + np.exp(-8 * (at - generator.uniform(0.35, 0.65, (count, 1)))))[..., None]
        moved = (start[:, None] * (1 - path) + stop[:, None] * path) * size
        gain = sum(1 / (1 + ((self._centres[None, None] - moved[..., k, None]) / _WIDTHS[k]) ** 2) for k in range(3))
        inside = np.where((at >= 0) & (at <= 1), 2 * np.log(np.sin(np.pi * at.clip(0.01, 0.99))), -25)
        return 2 * np.log(gain + 1e-3) + inside[..., None]


def log_mel(waves: np.ndarray, mel: np.ndarray) -> np.ndarray:
    """[n, frames, bins] of waves [n, samples], as ASTFeatureExtractor makes them (mel: [FFT/2 + 1, bins])."""
    frames = np.lib.stride_tricks.sliding_window_view(waves, WINDOW, axis=1)[:, ::HOP].astype(np.float64)
    frames = frames - frames.mean(-1, keepdims=True)
    before = np.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
    shaped = (frames - 0.97 * before) * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(shaped, FFT)) ** 2
    return np.log(np.maximum(power @ mel, FLOOR))


def _mel_filters() -> tuple[np.ndarray, np.ndarray]:
    """([FFT/2 + 1, bins] filters, [bins] their centres in Hz)."""
    from transformers import ASTFeatureExtractor

    mel = ASTFeatureExtractor(num_mel_bins=BINS, sampling_rate=RATE).mel_filters
    frequencies = np.linspace(0, RATE / 2, len(mel))
    return mel, (mel * frequencies[:, None]).sum(0) / mel.sum(0).clip(1e-9)


def _fold(folder: Path, fold: int) -> list[tuple[np.ndarray, str]]:
    import soundfile

    whole, rate = soundfile.read(folder / f"fold{fold}.flac", dtype="float32")
    assert rate == RATE
    with (folder / f"fold{fold}.csv").open(encoding="utf-8") as file:
        rows = [(int(row["start"]), int(row["length"]), row["label"]) for row in csv.DictReader(file)]
    return [(whole[start : start + length], label) for start, length, label in rows]


def _window(clip: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A piece that is not silent, where eight tries find one."""
    for _ in range(8):
        at = generator.integers(0, max(1, len(clip) - SAMPLES))
        piece = clip[at : at + SAMPLES]
        if np.abs(piece).max(initial=0) > 0.05 * np.abs(clip).max():
            break
    return np.pad(piece, (0, SAMPLES - len(piece)))


def _buzz(count: int, generator: np.random.Generator) -> np.ndarray:
    """[n, samples]: saw teeth of wandering pitch, with some breath."""
    pitch = np.exp(generator.uniform(np.log(80), np.log(320), (count, 1)))
    time = np.linspace(0, 1, SAMPLES)[None]
    bend = np.exp(generator.normal(0, 0.25, (count, 1)) * time + generator.normal(0, 0.15, (count, 1)) * time**2)
    phase = np.cumsum(pitch * bend / RATE, axis=1) + generator.random((count, 1))
    breath = generator.uniform(0, 0.4, (count, 1)) * generator.normal(size=(count, SAMPLES))
    return 2 * (phase % 1) - 1 + breath


def _noise_level(count: int, generator: np.random.Generator) -> np.ndarray:
    return np.exp(generator.uniform(np.log(1e-4), np.log(1e-2), (count, 1)))
