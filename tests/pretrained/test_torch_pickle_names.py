"""State dicts of other programs: what they are wrapped in, and what is wrong with them."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from perceptual_jax.pretrained import torch_pickle

X = np.ones(2, np.float32)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_unwrapped_from_a_checkpoint(wrapper: str) -> None:
    saved = {wrapper: {"conv1.weight": X}, "optimizer": {"lr": X}, "epoch": 3}
    assert torch_pickle.unwrapped(saved) == {"conv1.weight": X}


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_unwrapped_from_a_module(prefix: str) -> None:
    assert torch_pickle.unwrapped({f"{prefix}conv1.weight": X}) == {"conv1.weight": X}


def test_unwrapped_keeps_names_that_only_contain_a_wrapper() -> None:
    assert torch_pickle.unwrapped({"submodule.model.weight": X}) == {"submodule.model.weight": X}


def test_no_differences() -> None:
    tensors: dict[str, Any] = {"a": X, "b": X.astype(np.float16), "c": X.astype(ml_dtypes.bfloat16)}
    assert torch_pickle.differences(tensors, {"c": (2,), "a": (2,), "b": (2,)}) == []


def test_every_difference_is_told() -> None:
    tensors: dict[str, Any] = {"a": X, "b": X[None], "c": X.astype(np.uint8), "d": X * np.nan}
    shapes: torch_pickle.Shapes = {"b": (2,), "c": (2,), "d": (2,), "e": ()}
    assert sorted(torch_pickle.differences(tensors, shapes)) == [
        "a is surplus",
        "b has shape (1, 2) instead of (2,)",
        "c has dtype uint8",
        "d is not finite",
        "e is missing",
    ]
