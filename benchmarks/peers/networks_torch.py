"""VGG-16 and the style network in PyTorch, with the weights of our files.

The style network is that of Johnson et al. 2016 with instance normalisation, nearest-neighbour
upsampling and reflection padding, as in PyTorch's example `fast_neural_style`.  Needs torch.
"""

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


class StyleNetwork(torch.nn.Module):
    """One style of a network.  Photos and pictures are `(N, 3, H, W)` in [0, 1], not clipped."""

    def __init__(self, weights, style, layout):
        """Takes the tensors of a file by their names, the row of a style, and a key of LAYOUTS."""
        super().__init__()
        self.layout = LAYOUTS[layout]
        self.parts = torch.nn.ParameterDict()
        for name, values in weights.items():
            if not name.startswith("params/"):
                continue
            part = torch.from_numpy(values).float()
            if name.endswith("kernel"):
                part = part.permute(3, 2, 0, 1).contiguous(memory_format=self.layout)
            elif "/instance/" in name:
                part = part[style].contiguous()
            self.parts[name.removeprefix("params/")] = torch.nn.Parameter(part)
        self.residual_blocks = len(
            {name.split("/")[0] for name in self.parts if "residual" in name}
        )

    def convolved(self, x, name, stride=1):
        kernel = self.parts[f"{name}/kernel"]
        x = F.pad(x, [kernel.shape[-1] // 2] * 4, mode="reflect")
        return F.conv2d(x, kernel, self.parts[f"{name}/bias"], stride)

    def normalized(self, x, name):
        scale, bias = self.parts[f"{name}/instance/scale"], self.parts[f"{name}/instance/bias"]
        return F.instance_norm(x, weight=scale, bias=bias, eps=1e-5)

    def forward(self, photos):
        x = 4 * (photos.contiguous(memory_format=self.layout) - 0.5)
        for index, stride in ((1, 1), (2, 2), (3, 2)):
            x = self.normalized(self.convolved(x, f"conv{index}", stride), f"norm{index}")
            x = F.relu(x, inplace=True)
        for index in range(1, self.residual_blocks + 1):
            block = f"residual{index}"
            y = self.normalized(self.convolved(x, f"{block}/conv1"), f"{block}/norm1")
            y = F.relu(y, inplace=True)
            x = x + self.normalized(self.convolved(y, f"{block}/conv2"), f"{block}/norm2")
        for index in (1, 2):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = self.normalized(self.convolved(x, f"up{index}"), f"up_norm{index}")
            x = F.relu(x, inplace=True)
        return 0.5 + 0.25 * self.convolved(x, "output")
