"""Signals that come at a known point of a run."""

import signal
from typing import Any

import pytest

from perceptual_jax.cli import console


def stop_after(step: int, number: signal.Signals, patch: pytest.MonkeyPatch) -> None:
    """A signal comes while the report of a step, at the earliest this one, is shown."""
    update = console.ProgressBar.update

    def interrupt(bar: Any, work: float, description: str, terms: Any) -> None:
        update(bar, work, description, terms)
        if int(description.removeprefix("step ")) >= step:
            signal.raise_signal(number)

    patch.setattr(console.ProgressBar, "update", interrupt)
