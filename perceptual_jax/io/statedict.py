"""State dicts: flat dicts of named tensors, as other programs save them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Shapes = dict[str, tuple[int, ...]]

# What training programs wrap a state dict in, and put before its names.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "model.")


def unwrapped(saved: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The state dict inside of a checkpoint, without what is no tensor, its names `bare`."""
    for wrapper in _WRAPPERS:
        if isinstance(saved.get(wrapper), dict):
            saved = saved[wrapper]
    return {bare(str(k)): v for k, v in saved.items() if isinstance(v, np.ndarray)}


def bare(name: str) -> str:
    """A tensor's name in the network itself, without what wrapped the network in training."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def differences(tensors: Mapping[str, np.ndarray], shapes: Shapes) -> list[str]:
    """What keeps `tensors` from being finite numbers of exactly these names and shapes."""
    found = {name: tensor.shape for name, tensor in tensors.items()}
    problems = [f"{name} is missing" for name in shapes if name not in found]
    problems += [f"{name} is surplus" for name in found if name not in shapes]
    for name, shape in shapes.items():
        if name not in found:
            continue
        if found[name] != shape:
            problems.append(f"{name} has shape {found[name]} instead of {shape}")
        elif tensors[name].dtype.kind in "iubc":
            problems.append(f"{name} has dtype {tensors[name].dtype}")
        elif not np.isfinite(tensors[name]).all():
            problems.append(f"{name} is not finite")
    return problems
