"""Changes of training images and sound: what each does, and that only seed, pass and row decide."""

import numpy as np
import pytest

from pairtune.data.augment import Augmenter, crop, flip, masks


def rows(key, shape, count=6):
    values = np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)
    return [{key: value, "index": i, "label": i} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    "ways, key, shape",
    [
        (["flip"], "pixel_values", (3, 8, 8)),
        (["flip", "crop"], "pixel_values", (3, 16, 12)),
        (["masks"], "input_values", (20, 16)),
    ],
)
def test_seed_pass_and_row_decide(ways, key, shape):
    given = rows(key, shape)
    augment = Augmenter(ways, seed=3)
    first, again = augment(given, 0), augment(given[::-1], 0)[::-1]
    assert all(np.array_equal(a[key], b[key]) for a, b in zip(first, again, strict=True))
    for other in (augment(given, 1), Augmenter(ways, seed=4)(given, 0)):
        assert any(not np.array_equal(a[key], b[key]) for a, b in zip(first, other, strict=True))
    assert all(a[key].shape == shape and a["label"] == i for i, a in enumerate(first))
    assert np.array_equal(given[0][key], rows(key, shape)[0][key])  # what is kept in memory stays as it was


def test_flip_mirrors_half_of_the_images():
    image = np.arange(24.0).reshape(1, 4, 6)
    made = [flip(image, np.random.default_rng(i)) for i in range(200)]
    mirrored = sum(np.array_equal(one, image[:, :, ::-1]) for one in made)
    assert mirrored + sum(np.array_equal(one, image) for one in made) == 200 and 70 < mirrored < 130


def test_crop_moves_by_an_eighth_at_most():
    image = np.random.default_rng(0).normal(size=(3, 16, 24))
    seen = set()
    for i in range(300):
        made = crop(image, np.random.default_rng(i))
        inner = made[:, 2:-2, 3:-3]
        places = [(y, x) for y in range(5) for x in range(7) if np.array_equal(image[:, y : y + 12, x : x + 18], inner)]
        seen.add(places[0])
    assert len(seen) == 35


def test_masks_cover_a_quarter_at_most():
    sound = np.random.default_rng(0).normal(size=(40, 16))
    widths = []
    for i in range(200):
        changed = masks(sound, np.random.default_rng(i)) != sound
        widths.append((int(changed.all(0).sum()), int(changed.all(1).sum())))
        assert (changed == (changed.all(0)[None] | changed.all(1)[:, None])).all()
    assert max(w for w, _ in widths) == 4 and max(h for _, h in widths) == 10 and min(w for w, _ in widths) == 0
