"""VGG-16 and the networks of one pass in PyTorch, with the weights of our files.

The networks are those of Johnson et al. 2016 with nearest-neighbour upsampling and reflection
padding, as in PyTorch's example `fast_neural_style`: for style transfer with instance
normalisation; for super-resolution without, added to the bicubic enlargement.  Needs torch and
numpy.
"""

import functools
import re

import numpy as np
import torch
import torch.nn.functional as F

POOLINGS = {"avg": F.avg_pool2d, "max": F.max_pool2d}
LAYOUTS = {"channels_last": torch.channels_last, "channels_first": torch.contiguous_format}


class VGG(torch.nn.Module):
    """The convolutions of VGG-16.  Images are `(N, 3, H, W)` in 0..255, less the mean."""

    def __init__(self, weights, pooling, layout):
        """Takes the tensors of a file by their names, and keys of POOLINGS and LAYOUTS."""
        super().__init__()
        self.pool, self.layout = POOLINGS[pooling], LAYOUTS[layout]
        self.kernels, self.biases = torch.nn.ParameterDict(), torch.nn.ParameterDict()
        for key in weights:
            name, part = key.split("/")
            if part == "kernel":
                kernel = torch.from_numpy(weights[key]).float().permute(3, 2, 0, 1)
                self.kernels[name] = kernel.contiguous(memory_format=self.layout)
                self.biases[name] = torch.from_numpy(weights[f"{name}/bias"]).float()
        self.requires_grad_(False)

    def forward(self, x, layers):
        """Activations by layer, before (`conv1_1`) or after the ReLU (`relu1_1`), no deeper."""
        # The pixels themselves stay channels-first, as torch.optim.LBFGS needs them.
        x = x.contiguous(memory_format=self.layout)
        found = {}
        for block, depth in enumerate((2, 2, 3, 3, 3), start=1):
            for index in range(1, depth + 1):
                before, after = f"conv{block}_{index}", f"relu{block}_{index}"
                x = F.conv2d(x, self.kernels[before], self.biases[before], padding=1)
                if before in layers:
                    found[before] = x
                if len(found) == len(layers):
                    return found
                x = F.relu(x, inplace=before not in layers)
                if after in layers:
                    found[after] = x
                if len(found) == len(layers):
                    return found
            x = self.pool(x, 2)
        return found


class Transformation(torch.nn.Module):
    """What the networks share.  Images are `(N, 3, H, W)` in [0, 1] on both sides, not clipped."""

    def __init__(self, weights, layout):
        """Takes the tensors of a file by their names, and a key of LAYOUTS."""
        super().__init__()
        self.layout = LAYOUTS[layout]
        self.parts = torch.nn.ParameterDict()
        for name, values in weights.items():
            if not name.startswith("params/"):
                continue
            part = torch.from_numpy(values).float()
            if name.endswith("kernel"):
                part = part.permute(3, 2, 0, 1).contiguous(memory_format=self.layout)
            self.parts[name.removeprefix("params/")] = torch.nn.Parameter(part)
        layers = {name.split("/")[0] for name in self.parts}
        self.residual_blocks = sum(name.startswith("residual") for name in layers)
        self.upsamplings = sum(re.fullmatch(r"up\d+", name) is not None for name in layers)

    def centred(self, images):
        return 4 * (images.contiguous(memory_format=self.layout) - 0.5)

    def convolved(self, x, name, stride=1):
        kernel = self.parts[f"{name}/kernel"]
        x = F.pad(x, [kernel.shape[-1] // 2] * 4, mode="reflect")
        return F.conv2d(x, kernel, self.parts[f"{name}/bias"], stride)

    def normalized(self, x, name):
        return x

    def layer(self, x, name, norm, stride=1):
        return F.relu(self.normalized(self.convolved(x, name, stride), norm), inplace=True)

    def residuals(self, x):
        for index in range(1, self.residual_blocks + 1):
            block = f"residual{index}"
            y = self.layer(x, f"{block}/conv1", f"{block}/norm1")
            x = x + self.normalized(self.convolved(y, f"{block}/conv2"), f"{block}/norm2")
        return x

    def upsampled(self, x):
        for index in range(1, self.upsamplings + 1):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = self.layer(x, f"up{index}", f"up_norm{index}")
        return x


class StyleNetwork(Transformation):
    """One style of a network."""

    def __init__(self, weights, style, layout):
        """Takes the tensors of a file by their names, the row of a style, and a key of LAYOUTS."""
        rows = {name: values[style] for name, values in weights.items() if "/instance/" in name}
        super().__init__(weights | rows, layout)

    def normalized(self, x, name):
        scale, bias = self.parts[f"{name}/instance/scale"], self.parts[f"{name}/instance/bias"]
        return F.instance_norm(x, weight=scale, bias=bias, eps=1e-5)

    def forward(self, photos):
        x = self.centred(photos)
        for index, stride in ((1, 1), (2, 2), (3, 2)):
            x = self.layer(x, f"conv{index}", f"norm{index}", stride)
        x = self.upsampled(self.residuals(x))
        return 0.5 + 0.25 * self.convolved(x, "output")


class SuperResolutionNetwork(Transformation):
    """Enlarges by two for each of its upsamplings."""

    def forward(self, photos):
        x = self.layer(self.centred(photos), "conv1", "norm1")
        x = self.upsampled(self.residuals(x))
        rows, columns = (
            torch.from_numpy(bicubic_matrix(length, 2**self.upsamplings))
            for length in photos.shape[2:]
        )
        return rows @ photos @ columns.T + 0.0025 * self.convolved(x, "output")


@functools.lru_cache
def bicubic_matrix(length, factor):
    """Enlarges along one axis, `(factor length, length)`: Keys' cubic, a = -0.5.

    Cut off at the borders, and normalised.  An array, since a tensor that is made while a network
    is exported has no values to be kept.
    """
    centres = (np.arange(factor * length) + 0.5) / factor
    distance = np.abs(np.arange(length) + 0.5 - centres[:, None])
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
