"""Several pictures in one, in rows and columns with labels."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from perceptual_jax.io import images

_GAP = 6


def draw(
    rows: Sequence[Sequence[np.ndarray | None]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
) -> np.ndarray:
    """Draws a labelled grid on white; pictures keep their sizes and are centred in their cells.

    Columns are as wide as the widest picture of all, rows as high as their own highest.

    Args:
      rows: pictures `(H, W, 3)` in [0, 1], or None for an empty cell.
      row_labels: to the left of each row; they may have several lines.
      column_labels: above each column.
      captions: below each picture, in the order of `rows`.

    Returns:
      `(H, W, 3)` float32 in [0, 1].
    """
    cells = [cell for row in rows for cell in row if cell is not None]
    width = max(cell.shape[1] for cell in cells)
    heights = [max((cell.shape[0] for cell in row if cell is not None), default=0) for row in rows]
    font = ImageFont.load_default(size=max(11, min(*heights, width) // 11))
    columns = max(len(row) for row in rows)

    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))

    def extent(labels: Sequence[str], axis: int) -> int:
        boxes = [measure.multiline_textbbox((0, 0), label, font=font) for label in labels]
        return int(max((box[2 + axis] for box in boxes), default=-2 * _GAP)) + 2 * _GAP

    left, top = extent(row_labels, 0), extent(column_labels, 1)
    below = extent([text for row in captions for text in row], 1)
    size = (
        left + columns * (width + _GAP) + _GAP,
        top + sum(height + below + _GAP for height in heights) + _GAP,
    )
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for column, label in enumerate(column_labels):
        middle = left + _GAP + column * (width + _GAP) + width // 2
        draw.multiline_text(
            (middle, top // 2), label, fill="black", font=font, anchor="mm", align="center"
        )
    y = top + _GAP
    for index, (row, height) in enumerate(zip(rows, heights, strict=True)):
        if row_labels:
            draw.multiline_text(
                (_GAP, y + height // 2), row_labels[index], fill="black", font=font, anchor="lm"
            )
        for column, cell in enumerate(row):
            if cell is not None:
                x = left + _GAP + column * (width + _GAP)
                corner = (x + (width - cell.shape[1]) // 2, y + (height - cell.shape[0]) // 2)
                canvas.paste(Image.fromarray(images.eight_bits(cell)), corner)
                if captions:
                    middle = (x + width // 2, y + height + below // 2)
                    draw.text(middle, captions[index][column], fill="black", font=font, anchor="mm")
        y += height + below + _GAP
    return np.asarray(canvas, np.float32) / np.float32(255)
