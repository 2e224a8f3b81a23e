"""Sounds for the zoo's spectrogram transformer, made by rule, always new ones: nothing is recorded.

Syllables: a hiss, a burst or nothing, then a buzzing tone of wandering pitch through three resonances that move from
one vowel's to another's; the class is onset and both vowels. Tones: a rising, falling, bent, trembling or steady pitch
of one of four waves. Noises: one of four colours, steady, swelling, pulsing, ticking, crackling or dying away. Pitch,
length, loudness, breath, speaker size and a noise beneath are drawn anew for each.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

RATE, FRAMES, BINS = 16_000, 96, 64
HOP, WINDOW, FFT, FLOOR = 160, 400, 512, 1.192092955078125e-07  # as ASTFeatureExtractor has them
SAMPLES = WINDOW + HOP * (FRAMES - 1)
KINDS, SHARES = ("syllables", "tones", "noises"), (0.5, 0.25, 0.25)
# Resonances in Hz of eight vowels, about those of an adult: i, e, a, o, u, ae, y, schwa.
VOWELS = np.array(
    [[280, 2250, 2900], [400, 2000, 2600], [750, 1250, 2500], [450, 850, 2450],
     [310, 750, 2300], [650, 1700, 2450], [280, 1750, 2200], [500, 1400, 2400]], dtype=np.float64,
)  # fmt: skip
_WIDTHS = np.array([90.0, 120.0, 180.0])
# What comes before a syllable's vowel: its middle and width in Hz, and how long it lasts as a share of the sound.
_ONSETS = np.array([[1000, 1, 0.01], [6300, 1200, 0.12], [3200, 900, 0.12], [4000, 2500, 0.03], [900, 600, 0.03]])
_CONTOURS, _WAVES = 6, 4
_COLOURS = np.array([[200, 300], [1200, 600], [4500, 1500], [3000, 6000]], dtype=np.float64)  # middle, width in Hz
_ENVELOPES = 7


class Sounds:
    """Labelled log-mel spectrograms by number.

    Attributes:
        kinds: of each class [classes], its place in KINDS.
        mean, std: of the log-mel values of `looked_at` items, by which the model's input is normalised.
    """

    def __init__(self, seed: int, looked_at: int = 1024):
        self.seed = seed
        sizes = (len(_ONSETS) * len(VOWELS) ** 2, _CONTOURS * _WAVES, len(_COLOURS) * _ENVELOPES)
        self.kinds = np.repeat(np.arange(len(KINDS)), sizes)
        self._begins, self._sizes = np.cumsum(sizes) - sizes, np.array(sizes)
        self._mel, self._centres = _mel_filters()
        self.mean, self.std = 0.0, 0.5  # for the first look, which is at the values themselves
        values = torch.cat([self.batch(10**9 + first, 64)[0] for first in range(0, looked_at, 64)])
        self.mean, self.std = float(values.mean()), float(values.std())

    def batch(self, first: int, count: int, held: bool = False) -> tuple[Tensor, np.ndarray, Tensor]:
        """[count, frames, bins] normalised, the classes [count], and [count, 1, frames, bins] of 0 to 1: without noise.

        Args:
            held: other sounds than those of training.
        """
        generator = np.random.default_rng([self.seed, int(held), first])
        kinds = generator.choice(len(KINDS), count, p=SHARES)
        within = (generator.random(count) * self._sizes[kinds]).astype(int)
        made = np.empty((count, FRAMES, BINS))
        for kind, maker in enumerate((self._syllables, self._tones, self._noises)):
            if (kinds == kind).any():
                made[kinds == kind] = maker(within[kinds == kind], generator)
        loudest = made.max((1, 2), keepdims=True)
        clean = np.clip((made - loudest) / 10 + 1, 0, 1)
        levels = generator.uniform(-4, 5, (count, 1, 1))
        floor = self._heard(generator.normal(0, 1, (count, SAMPLES)))
        floor += levels - generator.uniform(4, 16, (count, 1, 1)) - floor.mean((1, 2), keepdims=True)
        found = np.logaddexp(np.logaddexp(made - loudest + levels, floor), np.log(FLOOR))
        normal = ((found - self.mean) / (2 * self.std)).astype(np.float32)
        clean = torch.from_numpy(clean.astype(np.float32))[:, None]
        return torch.from_numpy(normal), self._begins[kinds] + within, clean

    def _heard(self, waves: np.ndarray) -> np.ndarray:
        return log_mel(waves, self._mel)

    def _band(self, middle: np.ndarray, width: np.ndarray) -> np.ndarray:
        """Log of a resonance's gain [..., bins] at these frequencies (Hz)."""
        apart = (self._centres - middle[..., None]) / width[..., None]
        return -np.log1p(apart**2) * 2

    def _syllables(self, classes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        count, vowels = len(classes), len(VOWELS)
        onset, start, stop = classes // vowels**2, classes // vowels % vowels, classes % vowels
        size = generator.uniform(0.85, 1.2, (count, 1, 1))
        length = generator.uniform(0.25, 0.9, (count, 1)) * FRAMES
        begin = generator.uniform(0, 1, (count, 1)) * (FRAMES - length)
        hissing = length * _ONSETS[onset, 2:] * generator.uniform(0.6, 2, (count, 1)) + 1
        time = np.arange(FRAMES)[None]
        at = (time - begin - hissing) / (length - hissing)
        path = 1 / (1 + np.exp(-8 * (at - generator.uniform(0.35, 0.65, (count, 1)))))[..., None]
        moved = (VOWELS[start][:, None] * (1 - path) + VOWELS[stop][:, None] * path) * size
        gain = sum(1 / (1 + ((self._centres - moved[..., k, None]) / _WIDTHS[k]) ** 2) for k in range(3))
        inside = np.where((at >= 0) & (at <= 1), 2 * np.log(np.sin(np.pi * at.clip(0.01, 0.99))), -25)
        voice = self._heard(_buzz(count, generator)) + 2 * np.log(gain + 1e-3) + inside[..., None]
        band = self._band(_ONSETS[onset, 0] * generator.uniform(0.85, 1.15, count), _ONSETS[onset, 1])
        before = np.where((time >= begin) & (time < begin + hissing) & (onset > 0)[:, None], 0, -25)
        hiss = self._heard(generator.normal(0, 1, (count, SAMPLES))) + band[:, None] + before[..., None]
        below = generator.uniform(-1, 4, (count, 1, 1))
        return np.logaddexp(_peak_at_zero(voice), _peak_at_zero(hiss) - below - 30 * (onset == 0)[:, None, None])

    def _tones(self, classes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        count, contour, wave = len(classes), classes // _WAVES, classes % _WAVES
        time = np.linspace(0, 1, SAMPLES)[None]
        depth = generator.uniform(0.3, 1.0, (count, 1))
        tremble = np.sin(2 * np.pi * (generator.uniform(3, 9, (count, 1)) * time + generator.random((count, 1))))
        paths = (0 * time, depth * time, -depth * time, depth * np.sin(np.pi * time), -depth * np.sin(np.pi * time))
        bend = np.choose(contour[:, None], [*(np.broadcast_to(p, tremble.shape) for p in paths), depth * tremble / 4])
        pitch = np.exp(generator.uniform(np.log(120), np.log(1500), (count, 1)) + bend)
        turns = (np.cumsum(pitch / RATE, axis=1) + generator.random((count, 1))) % 1
        shapes = (np.sin(2 * np.pi * turns), 2 * turns - 1, np.sign(turns - 0.5), np.sign(turns - 0.15))
        sound = np.choose(wave[:, None], shapes)
        length = generator.uniform(0.3, 1.0, (count, 1))
        begin = generator.uniform(0, 1, (count, 1)) * (1 - length)
        return self._heard(sound * ((time >= begin) & (time <= begin + length)) + 1e-4)

    def _noises(self, classes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        count, colour, envelope = len(classes), classes // _ENVELOPES, classes % _ENVELOPES
        time = np.linspace(0, 1, FRAMES)[None]
        speed, phase = generator.uniform(4, 14, (count, 1)), generator.random((count, 1))
        turn = (speed * time + phase) % 1
        start = generator.uniform(0, 0.5, (count, 1))
        crackle = generator.random((count, FRAMES)) < generator.uniform(0.03, 0.15, (count, 1))
        since = np.where(time >= start, time - start, 10.0)
        shapes = (
            0 * turn,
            4 * np.sin(np.pi * (generator.uniform(0.5, 1.5, (count, 1)) * time + phase)) - 4,
            np.where(turn < 0.5, 0.0, -5.0),
            -12.0 * np.minimum(turn * 3, 1),
            np.where(crackle, 0.0, -7.0),
            -since * generator.uniform(6, 25, (count, 1)),
            -np.minimum(since, np.abs(time - start - 0.3)) * 40,
        )
        middle, width = _COLOURS[colour, 0] * generator.uniform(0.7, 1.4, count), _COLOURS[colour, 1]
        quiet = np.choose(envelope[:, None], shapes)[..., None].clip(-14)
        return self._heard(generator.normal(0, 1, (count, SAMPLES))) + self._band(middle, width)[:, None] + quiet


def _peak_at_zero(found: np.ndarray) -> np.ndarray:
    return found - found.max((1, 2), keepdims=True)


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


def _buzz(count: int, generator: np.random.Generator) -> np.ndarray:
    """[n, samples]: saw teeth of wandering pitch, with some breath."""
    pitch = np.exp(generator.uniform(np.log(80), np.log(320), (count, 1)))
    time = np.linspace(0, 1, SAMPLES)[None]
    bend = np.exp(generator.normal(0, 0.25, (count, 1)) * time + generator.normal(0, 0.15, (count, 1)) * time**2)
    phase = np.cumsum(pitch * bend / RATE, axis=1) + generator.random((count, 1))
    breath = generator.uniform(0, 0.4, (count, 1)) * generator.normal(size=(count, SAMPLES))
    return 2 * (phase % 1) - 1 + breath
