"""A tiny run through the loop itself: a dense delta on a tiny base, a collate of fixed rows, no data room."""

from pathlib import Path

import torch

from pairtune.constraints import Constraint
from pairtune.objectives.classification import Classification
from pairtune.objectives.lm import LanguageModel
from pairtune.pair.base import Base
from pairtune.pair.installed import SwappedParameters
from pairtune.pair.pair import Layer, Pair
from pairtune.training.arguments import arguments
from pairtune.training.config import Training
from pairtune.training.loop import PairTrainer
from pairtune.training.validation import Validation

LABELS = ["yes", "no", "perhaps"]
CPU = torch.device("cpu")


class Recorder(Constraint):
    """A constraint that keeps what it is shown: gradients before clipping, weights after the step."""

    def __init__(self):
        super().__init__()
        self.gradients, self.after = [], []

    def on_gradients(self, pair):
        self.gradients.append({name: p.grad.clone() for name, p in pair.trainable() if p.grad is not None})

    def after_step(self, pair):
        self.after.append(weights(pair))


def rows(count, seed=0):
    """Rows of 3 to 8 token ids with a label; the same at every call."""
    generator = torch.Generator().manual_seed(seed)

    def one():
        length = int(torch.randint(3, 9, (), generator=generator))
        ids = torch.randint(4, 60, (length,), generator=generator).tolist()
        return {"ids": ids, "label": int(torch.randint(3, (), generator=generator))}

    return [one() for _ in range(count)]


def collate(table, lm=False):
    """Row numbers → a padded batch."""

    def make(numbers):
        chosen = [table[n] for n in numbers]
        width = max(len(row["ids"]) for row in chosen)
        ids = torch.tensor([row["ids"] + [0] * (width - len(row["ids"])) for row in chosen])
        batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
        batch["labels"] = ids.masked_fill(ids == 0, -100) if lm else torch.tensor([row["label"] for row in chosen])
        return batch

    return make


def dense(folder, lm=False, dropout=None, only=None):
    """A pair whose every parameter trains."""
    torch.manual_seed(0)
    base = Base.load(folder, task=None if lm else "classification", labels=None if lm else LABELS, device="cpu")
    for module in base.model.modules():
        if dropout is not None and isinstance(module, torch.nn.Dropout):
            module.p = dropout
    variants = {
        name: torch.nn.Parameter(p.detach().clone())
        for name, p in base.model.named_parameters()
        if only is None or only(name)
    }
    installed = SwappedParameters(base.model, variants)
    return Pair(base, [Layer(installed, lambda: None, {"tuner": {"name": "full"}})])  # type: ignore


def trainer_of(
    pair: Pair,
    folder: Path,
    table,
    *,
    constraints=None,
    objective=None,
    lm=False,
    validation=None,
    resumed=None,
    identity=None,
    keep=99,
    autocast=None,
    collating=None,
    **settings,
):
    """The loop over these rows."""
    training = Training(**{"log_every": 2, "warmup": 0.0, "lr": 1e-2, "batch_size": 2, **settings})
    args = arguments(
        training, folder, rows=len(table), lr=training.lr, seed=5, device=CPU, validate=validation is not None
    )
    make = collating or collate(table, lm)
    check = None
    if validation is not None:
        held = collate(validation, lm)
        check = Validation(lambda: [held([i]) for i in range(len(validation))], training.metric, training.patience)
    trainer = PairTrainer(
        pair,
        objective or (LanguageModel() if lm else Classification()),
        constraints or {},
        args,
        train=make,
        rows=len(table),
        batch_size=training.batch_size,
        accumulation=training.accumulation,
        run=folder,
        lr=training.lr,
        weight_decay=training.weight_decay,
        validation=check,
        keep=keep,
        identity=identity,
        autocast=autocast,
    )
    trainer.resumed = resumed
    return trainer


def losses(trainer):
    """The log's training lines, without times."""
    keys = ("step", "loss", "grad_norm", "learning_rate", "accuracy")
    return [{k: line[k] for k in keys if k in line} for line in trainer.state.log_history if "loss" in line]


def weights(pair):
    """A copy of what is tuned."""
    return {name: tensor.clone() for name, tensor in pair.top.installed.state().items()}


def optimizer_state(trainer):
    """Every tensor of the optimizer, in order."""
    raw = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    states = [raw.state[p] for group in raw.param_groups for p in group["params"]]
    return [state[name].clone() for state in states for name in sorted(state)]


def same_gradients(mine, theirs, tolerance=1e-6):
    """Whether two recorders saw the same gradients, relative to their norm. Weights would not do: Adam turns the
    rounding of a gradient that is zero in theory into steps of full size."""
    assert len(mine.gradients) == len(theirs.gradients)
    for one, other in zip(mine.gradients, theirs.gradients, strict=True):
        norm = torch.stack([g.norm() for g in other.values()]).norm()
        difference = torch.stack([(one[name] - other[name]).norm() for name in other]).norm()
        if difference / norm > tolerance:
            return False
    return True
