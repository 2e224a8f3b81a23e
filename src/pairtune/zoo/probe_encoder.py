"""Is an encoder worth tuning? `python -m pairtune.zoo.probe_encoder FOLDER --data DATA`: the gate of the zoo's bases.

A logistic regression on features that nobody tuned: those of the encoder in FOLDER, those of the same architecture with
random weights, and the input itself (an image's pixels, a sound's spectrogram). Of 600 training items each sixth in
turn is left out and the 500 others are learnt from (features standardised, strength of the penalty by cross-validation
on these 500). Judged are the left-out sixth and up to 1000 items of the test part, each of which counts once: for these
the mean of the six. With `--choose` the test part does not count: so are pilots compared. An encoder's features are
what a classifier's head on it would read.

A base ships where it is above both others on every set of `GATE`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pairtune.zoo.probe_sets import RATE, read

VIT, AST = "vit", "audio-spectrogram-transformer"
GATE = {VIT: ("fashion_mnist_mini", "mnist_small"), AST: ("fsdd", "esc10")}
LOOKED_AT = {VIT: ("cifar10_small",), AST: ()}
FOLDS, STRENGTHS = 6, (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
Features = Callable[[list[np.ndarray]], np.ndarray]  # n items → [n, d]


def probe(x: np.ndarray, y: np.ndarray, test: tuple[np.ndarray, np.ndarray] | None = None) -> float:
    """Accuracy of `FOLDS` probes, each learnt from all but one part of features [n, d] with classes [n].

    Args:
        test: features and classes that all of them judge; the part that was left out, one of them does.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    left_out, tested = np.empty(len(y)), []
    for kept, left in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(x, y):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=100, tol=1e-2))
        search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, cv=StratifiedKFold(3))
        search.fit(x[kept], y[kept])
        left_out[left] = search.predict(x[left]) == y[left]
        if test is not None:
            tested.append(search.predict(test[0]) == test[1])
    return float(np.mean([*left_out, *np.mean(tested, axis=0)] if tested else left_out))


def features(folder: Path) -> dict[str, Features]:
    """What is compared, by name: `encoder`, `random` and `input`; each makes features of items as they are on disk."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder)
    image = config.model_type == VIT
    prepared, front = (_pixels(folder), 1) if image else (_spectrograms(folder), 2)
    bare: dict[str, Any] = {"add_pooling_layer": False} if image else {}
    torch.manual_seed(0)
    models = {
        "encoder": AutoModel.from_pretrained(folder, dtype="float32", **bare),
        "random": AutoModel.from_config(config, dtype="float32", **bare),
    }

    @torch.inference_mode()
    def of(model: torch.nn.Module, items: list[np.ndarray]) -> np.ndarray:
        parts = []
        for first in range(0, len(items), 100):
            parts.append(model(prepared(items[first : first + 100])).last_hidden_state[:, :front].mean(1))
        return torch.cat(parts).numpy()

    def flat(items: list[np.ndarray]) -> np.ndarray:
        return (np.stack(items) if image else prepared(items).numpy()).reshape(len(items), -1).astype(np.float32)

    return {**{name: partial(of, model.eval()) for name, model in models.items()}, "input": flat}


def _pixels(folder: Path) -> Callable[[list[np.ndarray]], torch.Tensor]:
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder)

    def prepared(items: list[np.ndarray]) -> torch.Tensor:
        return processor([Image.fromarray(item).convert("RGB") for item in items], return_tensors="pt")["pixel_values"]

    return prepared


def _spectrograms(folder: Path) -> Callable[[list[np.ndarray]], torch.Tensor]:
    from transformers import AutoFeatureExtractor

    extractor = AutoFeatureExtractor.from_pretrained(folder)
    return lambda items: extractor(items, sampling_rate=RATE, return_tensors="pt")["input_values"]


def table(folder: Path, data: Path, choose: bool = False) -> dict[str, dict[str, float]]:
    """Accuracy by set and by features.

    Args:
        choose: judge only training items that were left out, none of the test part.
    """
    from transformers import AutoConfig

    kind, rows = AutoConfig.from_pretrained(folder).model_type, {}
    compared = features(folder)
    for name in GATE[kind] + LOOKED_AT[kind]:
        found = read(data / name)
        rows[name] = {
            label: probe(of(found.x), found.y, None if choose else (of(found.test_x), found.test_y))
            for label, of in compared.items()
        }
    return rows


def unfit(rows: dict[str, dict[str, float]]) -> list[str]:
    """The sets of the gate on which an encoder's features are not better than random ones or than the input."""
    needed = {name for names in GATE.values() for name in names}
    return [name for name, row in rows.items() if name in needed and row["encoder"] <= max(row["random"], row["input"])]


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an encoder with its preprocessor, as transformers saves them")
    parser.add_argument("--data", type=Path, required=True, help="the data folder (PAIRTUNE_DATA)")
    parser.add_argument("--choose", action="store_true", help="judge only training items that were left out")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = table(args.folder, args.data, args.choose)
    print(f"{'set':20}{'encoder':>9}{'random':>9}{'input':>9}")
    for name, row in rows.items():
        print(f"{name:20}" + "".join(f"{value:9.1%}" for value in row.values()))
    failed = unfit(rows)
    print(f"not fit to be a base: {', '.join(failed)}" if failed else "fit to be a base")
    return rows


if __name__ == "__main__":
    main()
