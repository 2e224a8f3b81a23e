"""Every run collects garbage; what was imported need not be walked over each time."""

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def imported_modules_stay():
    import peft  # noqa: F401

    import pairtune.training.run  # noqa: F401

    gc.collect()
    gc.freeze()
