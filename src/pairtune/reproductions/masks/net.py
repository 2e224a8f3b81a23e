"""A segmenter of 0.6 million parameters with the parts of SAM: image encoder, prompt encoder, mask decoder.

It is given a grey image and a box, and answers with the mask of the object in the box. Blocks of convolutions stand in
for SAM's transformer (at 32 × 32 pixels and a few thousand images they learn where a transformer does not); group norms
keep no running statistics, so that merging weights is all there is to merge.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, pixel_shuffle

SIDE = 32
WIDTHS = (24, 48, 96)


class Block(nn.Module):
    """Two convolutions around the identity: [N, C, h, w] → the same."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(gelu(self.norm2(self.conv1(gelu(self.norm1(x))))))


class Change(nn.Module):
    """To another width and half the resolution (or the same), then a block."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride=stride, padding=1)
        self.block = Block(after)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.conv(x))


class Up(nn.Module):
    """To twice the resolution, with what the encoder saw there, then a block."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.narrow = nn.Conv2d(before, after, 1)
        self.block = Block(after)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.block(interpolate(self.narrow(x), scale_factor=2) + skip)


class Head(nn.Module):
    """[N, C, 16, 16] → logits [N, 32, 32]."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return pixel_shuffle(self.conv(gelu(self.norm(x))), 2)[:, 0]


class Segmenter(nn.Module):
    """Image and box, both [N, 1, 32, 32] → logits of the mask [N, 32, 32]."""

    def __init__(self):
        super().__init__()
        a, b, c = WIDTHS
        self.encoder = nn.ModuleList([Change(1, a, 2), Block(a), Change(a, b, 2), Block(b), Change(b, c, 2)])
        self.prompt = nn.ModuleList([nn.Conv2d(1, a, 4, stride=2, padding=1), nn.Conv2d(a, c, 4, stride=4)])
        self.decoder = nn.ModuleList([Block(c), Up(c, b), Up(b, a), Head(a)])

    def forward(self, image: Tensor, box: Tensor) -> Tensor:
        x, seen = image, []
        for block in self.encoder:
            x = block(x)
            seen.append(x)
        fine = gelu(self.prompt[0](box))
        x = self.decoder[0](x + self.prompt[1](fine))
        x = self.decoder[2](self.decoder[1](x, seen[3]), seen[1] + fine)
        return self.decoder[3](x)


def new(seed: int) -> Segmenter:
    """A segmenter with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Segmenter()


@torch.no_grad()
def dice(model: Segmenter, weights: Mapping[str, Tensor], images: Tensor, boxes: Tensor, masks: Tensor) -> Tensor:
    """[N] Dice of each image with these weights: 2 |A ∩ B| / (|A| + |B|); 1 where both masks are empty.

    Args:
        images, boxes: [N, 1, 32, 32]. masks: [N, 32, 32], bool.
    """
    logits = torch.cat(
        [
            torch.func.functional_call(model, dict(weights), (image, box))
            for image, box in zip(images.split(64), boxes.split(64), strict=True)
        ]
    )
    return overlap(logits > 0, masks)


def overlap(found: Tensor, masks: Tensor) -> Tensor:
    """[N] Dice of masks [N, ...], bool; 1 where both are empty, 0 where only one is."""
    both, one, other = (part.flatten(1).sum(1).double() for part in (found & masks, found, masks))
    return torch.where(one + other > 0, 2 * both / (one + other).clamp(min=1), torch.ones_like(both))
