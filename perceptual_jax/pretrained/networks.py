"""Files of trained networks: our self-contained format, and those of PyTorch's example.

Our format is a safetensors file with one tensor, `params/conv1/kernel`, for each leaf of the
network's variables, and one, `thumbnails/0`, for a small picture of each style.  Its metadata has
`format`, `version`, `kind` (a key of `KINDS`), `architecture`, `styles`, `stroke_sizes`, `settings`
as JSON, and `sha256`, the digest of all tensors.  Tensors and digest are checked whenever a file is
read.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from perceptual_jax.io import resources
from perceptual_jax.io.storage import FileError, local_path
from perceptual_jax.models.networks import (
    Decoder,
    StyleNetwork,
    SuperResolutionNetwork,
    describe,
)
from perceptual_jax.pretrained import tensorfile, torch_pickle, transformer_net

FORMAT = "perceptual_jax.network"
VERSION = "1"

KINDS: dict[str, type[nn.Module]] = {
    "style": StyleNetwork,
    "superres": SuperResolutionNetwork,
    "decoder": Decoder,
}

# Enough to recognise a painting; 49 kB at most, beside the 3.4 MB of a network of one style.
LARGEST_THUMBNAIL = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """A network, its variables, and what they were trained for.

    Attributes:
      network: one of the modules in `KINDS`.
      variables: `{"params": ...}`, and `"batch_stats"` if the network has them, for
        `network.apply`: nested dicts of float32 NumPy arrays.
      styles: the name of each style; empty for other kinds.
      stroke_sizes: the long sides, ascending, in pixels, of the painting that the rows of a style
        were trained for: of row `i len(stroke_sizes) + j`, style i at size j. Empty if each style
        has one row.
      thumbnails: a picture of each style, `(h, w, 3)` uint8, whose sides are at most
        `LARGEST_THUMBNAIL`; or none at all.
      settings: those of the last training run, values of JSON; among them `steps`, its updates,
        and `steps_before`, those of earlier runs.
    """

    network: Any
    variables: dict[str, Any]
    styles: tuple[str, ...]
    stroke_sizes: tuple[int, ...] = ()
    thumbnails: tuple[np.ndarray, ...] = ()
    settings: dict[str, Any]

    @property
    def steps(self) -> int:
        """Updates in all training runs that the settings know of."""
        return sum(int(self.settings.get(name, 0)) for name in ("steps_before", "steps"))

    def style_weights(
        self, styles: Mapping[str, float], *, stroke_size: float | None = None
    ) -> np.ndarray:
        """What `models.stylize` takes for a mix of styles: how much of each row, `(rows,)`.

        Args:
          styles: how much of each, as ratios.
          stroke_size: the size of the strokes, as the long side of the painting that they are in,
            in pixels. One between two that the network knows mixes their rows by its logarithm,
            one beyond them is the nearest. By default the middle one.

        Raises:
          ValueError: styles or a size that the network does not have.
        """
        if unknown := [style for style in styles if style not in self.styles]:
            raise ValueError(f"no style {', '.join(unknown)}, but {', '.join(self.styles)}")
        if not (min(styles.values(), default=0) >= 0 and 0 < sum(styles.values()) < np.inf):
            raise ValueError(f"styles must be at least 0, and not all 0, got {dict(styles)}")
        if stroke_size is not None and not self.stroke_sizes:
            raise ValueError("the strokes of this network have one size")
        shares = np.array([styles.get(style, 0.0) for style in self.styles])
        sizes = self.stroke_sizes or (1,)
        wanted = sizes[len(sizes) // 2] if stroke_size is None else stroke_size
        if not wanted > 0:
            raise ValueError(f"stroke_size must be positive, got {stroke_size}")
        identity = np.eye(len(sizes))
        of_sizes = [np.interp(np.log(wanted), np.log(sizes), column) for column in identity]
        return (np.outer(shares / shares.sum(), of_sizes)).ravel().astype(np.float32)


def save(path: str | Path, trained: TrainedNetwork, *, dtype: str = "float16") -> None:
    """Writes a file in our format; the same network gives the same bytes.

    Args:
      path: the file, see `storage.atomic_write`.
      trained: the network; its variables may be JAX arrays.
      dtype: of the variables in the file: `"float32"`, or `"float16"`, half as large, which moved
        the pixels of a random network by 1.4e-4 of the range on average, and by 1.2e-3 at most.

    Raises:
      FileError: the file cannot be written.
      ValueError: the parts do not fit together, or a value is not finite or too large for float16.
      ValueError, TypeError: the settings are no JSON.
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype must be 'float16' or 'float32', got {dtype!r}")
    kinds = {module: kind for kind, module in KINDS.items()}
    if (module := type(trained.network)) not in kinds:
        raise ValueError(f"a {module.__name__} cannot be saved; only {', '.join(KINDS)} networks")
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), trained.variables)
    if problems := _problems(dataclasses.replace(trained, variables=variables)):
        raise ValueError(f"not a network that can be saved: {'; '.join(problems)}")
    leaves = traverse_util.flatten_dict(variables, sep="/")
    with np.errstate(over="ignore"):  # The check below names the tensor.
        tensors = {name: leaf.astype(dtype) for name, leaf in leaves.items()}
    too_large = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
    if too_large:
        raise ValueError(f"too large for float16: {', '.join(too_large)}; save it as float32")
    tensors |= {f"thumbnails/{index}": picture for index, picture in enumerate(trained.thumbnails)}
    about = {
        "architecture": describe(trained.network),
        "styles": trained.styles,
        "stroke_sizes": trained.stroke_sizes,
        "settings": trained.settings,
    }
    metadata = {"format": FORMAT, "version": VERSION, "kind": kinds[module]}
    for name, value in about.items():
        # Sorted, so that the bytes are always the same; NaN is no JSON, though Python writes it.
        metadata[name] = json.dumps(value, sort_keys=True, allow_nan=False)
    tensorfile.write(Path(path), tensors, metadata)


def load_network(name_or_path: str | Path) -> TrainedNetwork:
    """The network in a file, or behind the name of one that comes with the package.

    Args:
      name_or_path: a file in our format, or of `torch.save` with the state dict of PyTorch's
        `TransformerNet`; or a name that `shipped` gives. A file that exists wins over a name.

    Raises:
      FileError: there is no such file or name, or the file is damaged, too new, or holds something
        else; the message lists all tensors that are missing, surplus or misshapen.
    """
    path = _find(name_or_path)
    if not tensorfile.is_safetensors(path):
        return _read_transformer_net(path)
    tensors, metadata = tensorfile.read(path)
    if (format := metadata.get("format")) != FORMAT:
        raise FileError(f"{path} does not hold a trained network: its format is {format!r}")
    tensorfile.check(path, tensors, metadata, version=VERSION)
    if (kind := metadata.get("kind")) not in KINDS:
        raise FileError(
            f"{path} holds a network of the kind {kind!r}; this program knows {', '.join(KINDS)}"
        )
    try:
        styles = tuple(json.loads(metadata["styles"]))
        stroke_sizes = tuple(json.loads(metadata.get("stroke_sizes", "[]")))
        settings = json.loads(metadata["settings"])
        _check_settings(settings)
        names = (f"thumbnails/{index}" for index in range(len(styles)))
        thumbnails = tuple(tensors.pop(name) for name in names if name in tensors)
        trained = TrainedNetwork(
            network=_network(kind, json.loads(metadata["architecture"])),
            variables=traverse_util.unflatten_dict(tensors, sep="/"),
            styles=styles,
            stroke_sizes=stroke_sizes,
            thumbnails=thumbnails,
            settings=settings,
        )
        problems = _problems(trained)
    except Exception as error:
        # An impossible size makes Flax or jax raise almost anything.
        reason = str(error) or type(error).__name__
        raise FileError(f"{path} does not describe a network: {reason}") from error
    if problems:
        raise FileError(f"{path} does not hold the network it describes: {'; '.join(problems)}")
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float32), trained.variables)
    return dataclasses.replace(trained, variables=variables)


def load_superres(name_or_path: str, factor: int) -> TrainedNetwork:
    """A network for super-resolution by a factor: `feature` or `pixel`, or the path of a file.

    Raises:
      FileError: there is no such network, or it does something else.
    """
    name, names = f"superres-x{factor}-{name_or_path}", _shipped_files().keys()
    if not {name, name_or_path} & names and not local_path(name_or_path).is_file():
        raise FileError(
            f"there is no network {name_or_path!r}: give feature, pixel, or the path of a file"
        )
    trained = load_network(name if name in names else name_or_path)
    network = trained.network
    if not isinstance(network, SuperResolutionNetwork):
        raise FileError(f"{name_or_path} is not a network for super-resolution")
    if network.factor != factor:
        raise FileError(f"{name_or_path} enlarges by {network.factor}, not by {factor}")
    return trained


def shipped(kind: str = "style") -> list[str]:
    """Names of the networks of a kind in `weights/networks`."""
    return [
        name
        for name, path in _shipped_files().items()
        if tensorfile.read(path, lambda name: False)[1].get("kind") == kind
    ]


def _shipped_files() -> dict[str, Path]:
    folder = resources.folder("weights") / "networks"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def _find(name_or_path: str | Path) -> Path:
    path = local_path(name_or_path)
    if path.is_file():
        return path
    shipped_files = _shipped_files()
    if found := shipped_files.get(str(name_or_path)):
        return found
    names = f", or one of the names {', '.join(shipped_files)}" if shipped_files else ""
    raise FileError(
        f"there is no network {str(name_or_path)!r}: give the path of a .safetensors or .pth "
        f"file{names}"
    )


def _read_transformer_net(path: Path) -> TrainedNetwork:
    state_dict = torch_pickle.read_state_dict(path, transformer_net.is_used)
    try:
        network, variables = transformer_net.from_transformer_net(state_dict)
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error
    return TrainedNetwork(
        network=network, variables=variables, styles=(path.stem,), settings={"source": path.name}
    )


def _network(kind: str, architecture: Mapping[str, Any]) -> nn.Module:
    """The module with these fields; fields that are missing in old files have their default."""
    known = describe(KINDS[kind]())
    for name, value in architecture.items():
        if name not in known:
            raise ValueError(f"{name!r} is unknown; a newer version of this program reads it")
        if type(value) is not type(known[name]):
            raise ValueError(f"{name}={value!r} is not of the type {type(known[name]).__name__}")
    return KINDS[kind](**architecture)


def _problems(trained: TrainedNetwork) -> list[str]:
    """Why these parts are not a network; empty if they are."""
    network, styles, thumbnails = trained.network, trained.styles, trained.thumbnails
    leaves = traverse_util.flatten_dict(trained.variables, sep="/")
    problems = tensorfile.mismatches(leaves, transformer_net.leaf_shapes(network))
    rows = network.styles if isinstance(network, StyleNetwork) else 0
    sizes = trained.stroke_sizes
    if not all(type(size) is int and size > 0 for size in sizes) or sorted(set(sizes)) != [*sizes]:
        problems.append(f"sizes of strokes that are no ascending numbers: {sizes}")
    if len(styles) * max(1, len(sizes)) != rows:
        at = f" at {len(sizes)} sizes" if sizes else ""
        problems.append(f"{len(styles)} names{at} for {rows} styles")
    if not all(isinstance(style, str) and is_style_name(style) for style in styles):
        problems.append("names of styles that are no names")
    if len(set(styles)) != len(styles):
        problems.append("several styles of one name")
    if thumbnails and len(thumbnails) != len(styles):
        problems.append(f"{len(thumbnails)} thumbnails for {len(styles)} styles")
    for index, picture in enumerate(thumbnails):
        shape = picture.shape
        if picture.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
            problems.append(f"thumbnail {index} is {shape} {picture.dtype}, not (h, w, 3) uint8")
        elif not 0 < min(shape[:2]) <= max(shape[:2]) <= LARGEST_THUMBNAIL:
            problems.append(f"thumbnail {index} is {shape[0]}x{shape[1]}")
    return problems


def is_style_name(name: str) -> bool:
    """Whether a style may be called so: text on one line that a file may be called as well.

    A name becomes part of the name of a picture, so a stranger's network must not lead out of a
    folder by it, nor send control characters to a terminal.
    """
    return 0 < len(name) <= 200 and name.isprintable() and not set(name) & set("/\\")


def style_name(text: str) -> str:
    """A name that a style may have, made of any text, such as the name of a painting's file."""
    name = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in text)
    return name[:200] or "_"


def _check_settings(settings: Any) -> None:
    if not isinstance(settings, dict):
        raise ValueError("its settings are no dict")
    for name in ("steps", "steps_before"):
        if type(settings.get(name, 0)) is not int or settings.get(name, 0) < 0:
            raise ValueError(f"its {name} are no number")
