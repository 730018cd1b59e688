"""The VGG networks that go by a name: where they lie, and how the distant ones are fetched."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from perceptual_jax.errors import UserError
from perceptual_jax.io import download, layouts, tensorfile, torchfile

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a network lies: in our `weights/` folder, or at two addresses, tried in order.

    Attributes:
      embedded: the file's name in `weights/`.
      safetensors_url: of which only the features are fetched.
      torch_url: a whole `.pth` file; as torchvision names its files, the digits after the dash
        begin the file's SHA-256.
      first_values: how tensors of `safetensors_url` must begin.  No digest of it is published
        that would hold for a part of the file, so these, the shapes, the dtypes and finite values
        are what can be checked.
    """

    embedded: str = ""
    safetensors_url: str = ""
    torch_url: str = ""
    first_values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


NAMES: dict[str, Source] = {
    "vgg16": Source(embedded="vgg16.safetensors"),
    "vgg16-torchvision": Source(
        safetensors_url="https://huggingface.co/timm/vgg16.tv_in1k/resolve/main/model.safetensors",
        torch_url="https://download.pytorch.org/models/vgg16-397923af.pth",
        first_values={
            "features.0.weight": (-0.5537306, 0.1427047, 0.5289615),
            "features.0.bias": (0.403388,),
        },
    ),
    "vgg19-torchvision": Source(
        safetensors_url="https://huggingface.co/timm/vgg19.tv_in1k/resolve/main/model.safetensors",
        torch_url="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
    ),
}


def obtain(source: Source, folder: Path) -> tuple[layouts.Params, str]:
    """Fetches a network, or takes the `.pth` file that someone has put into `folder`.

    Args:
      source: has both addresses.
      folder: for what is being fetched; only parts of unfinished downloads stay there.

    Returns:
      The parameters, and the address that they come from.

    Raises:
      UserError: no address gave the network, or the file in `folder` is damaged.
      OSError: `folder` cannot be written.
    """
    official = PurePosixPath(source.torch_url)
    digits = official.stem.rpartition("-")[2]
    by_hand = folder / official.name
    if by_hand.exists():
        if not download.sha256(by_hand).startswith(digits):
            raise UserError(f"{by_hand} is damaged: its SHA-256 does not start with {digits}")
        return layouts.from_torchvision(torchfile.read(by_hand, _is_feature)), source.torch_url

    problems = []
    for url in (source.safetensors_url, source.torch_url):
        fetched = folder / f"{official.stem}.fetched{PurePosixPath(url).suffix}"
        try:
            if url == source.safetensors_url:
                download.fetch_tensors(url, fetched, _is_feature)
                state_dict, _ = tensorfile.read(fetched)
                _check_first_values(state_dict, source)
            else:
                download.fetch_file(url, fetched, sha256_prefix=digits)
                state_dict = torchfile.read(fetched, _is_feature)
            return layouts.from_torchvision(state_dict), url
        except (download.DownloadError, UserError) as error:
            problems.append(str(error))
            if url != source.torch_url:
                _log.warning("%s; trying %s, which is larger", error, source.torch_url)
        finally:
            fetched.unlink(missing_ok=True)
    raise UserError(
        f"the weights could not be fetched ({'; '.join(problems)}). Fetch {source.torch_url} on a "
        f"machine that can, and put it into {folder}, or give its path instead (--vgg=PATH)"
    )


def _is_feature(name: str) -> bool:
    return name.startswith("features.")


def _check_first_values(state_dict: Mapping[str, np.ndarray], source: Source) -> None:
    for name, expected in source.first_values.items():
        found = state_dict.get(name, np.empty(0)).ravel()[: len(expected)]
        if len(found) != len(expected) or not np.allclose(found, expected, rtol=1e-5, atol=0):
            raise UserError(f"{source.safetensors_url} has another network: {name} differs")
