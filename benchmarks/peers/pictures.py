"""The picture files of the programs that make one pass.  Needs numpy and pillow."""

import numpy as np
from PIL import Image


def read(path):
    """`(1, 3, H, W)` in [0, 1]."""
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    return pixels.transpose(2, 0, 1)[None]


def write(path, pixels):
    """Takes what `read` gives."""
    picture = np.rint(255 * pixels[0].transpose(1, 2, 0)).astype(np.uint8)
    Image.fromarray(picture).save(path)
