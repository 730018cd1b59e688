// models/variation.py: noise of several scales for the flat parts of a photo.
import { Random } from './random.js';

const STROKE_SIZE = 384;
const OCTAVES = [[1, 2], [4, 4], [10, 6], [24, 10], [60, 10]];
const FLAT = 0.03;
const BLOCK = 8;
const SPLINE_DEVIATION = 0.479;

/** Adds grey noise where a picture `{ width, height, data }`, RGB floats in [0, 1], is flat. */
export function vary(picture, { amount, strokeSize }) {
  if (!amount) return picture;
  const { width, height, data } = picture;
  const random = new Random();
  const noise = new Float32Array(width * height);
  for (const [size, levels] of OCTAVES) {
    const deviation = levels / 255;
    if (size === 1) {
      for (let index = 0; index < noise.length; index++) noise[index] = deviation * random.normal();
      continue;
    }
    const pixels = Math.max(2, rounded((size * strokeSize) / STROKE_SIZE));
    const columns = Math.floor(width / pixels) + 4;
    const rows = Math.floor(height / pixels) + 4;
    const grid = { width: columns, height: rows, data: random.normals(columns * rows) };
    const share = deviation / SPLINE_DEVIATION;
    enlarge(grid, pixels, 0, picture, (index, value) => (noise[index] += share * value));
  }
  const varied = new Float32Array(data.length);
  enlarge(flatness(picture), BLOCK, BLOCK / 2, picture, (index, flat) => {
    const added = amount * flat * noise[index];
    for (let channel = 3 * index; channel < 3 * index + 3; channel++) {
      varied[channel] = Math.min(Math.max(data[channel] + added, 0), 1);
    }
  });
  return { width, height, data: varied };
}

/** Python's `round`: halves go to the even neighbour. */
export function rounded(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}

/** How flat each block is, from 0 to 1, with two more along every border. */
function flatness({ width, height, data }) {
  const columns = Math.ceil(width / BLOCK);
  const rows = Math.ceil(height / BLOCK);
  const grid = new Float32Array((columns + 4) * (rows + 4));
  const values = new Float64Array(BLOCK * BLOCK);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      for (let k = 0; k < values.length; k++) {
        const y = Math.min(row * BLOCK + Math.floor(k / BLOCK), height - 1);
        const x = Math.min(column * BLOCK + (k % BLOCK), width - 1);
        const at = 3 * (y * width + x);
        values[k] = 0.2126 * data[at] + 0.7152 * data[at + 1] + 0.0722 * data[at + 2];
      }
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      const variance =
        values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
      grid[(row + 2) * (columns + 4) + column + 2] = 1 / (1 + variance / FLAT ** 2);
    }
  }
  for (let row = 0; row < rows + 4; row++) {
    for (let column = 0; column < columns + 4; column++) {
      const y = Math.min(Math.max(row, 2), rows + 1);
      const x = Math.min(Math.max(column, 2), columns + 1);
      grid[row * (columns + 4) + column] = grid[y * (columns + 4) + x];
    }
  }
  return { width: columns + 4, height: rows + 4, data: grid };
}

/** Gives every pixel of a size its value of cubic B-splines through a grid, `start` pixels on. */
function enlarge(grid, factor, start, { width, height }, give) {
  const taps = Array.from({ length: factor }, (_, step) => {
    const t = step / factor;
    return [
      (1 - t) ** 3 / 6,
      (3 * t ** 3 - 6 * t ** 2 + 4) / 6,
      (-3 * t ** 3 + 3 * t ** 2 + 3 * t + 1) / 6,
      t ** 3 / 6,
    ];
  });
  const row = new Float64Array(grid.width);
  for (let y = 0; y < height; y++) {
    const first = Math.floor((y + start) / factor);
    const of = taps[(y + start) % factor];
    for (let column = 0; column < grid.width; column++) {
      row[column] = 0;
      for (let k = 0; k < 4; k++) {
        row[column] += of[k] * grid.data[(first + k) * grid.width + column];
      }
    }
    for (let x = 0; x < width; x++) {
      const column = Math.floor((x + start) / factor);
      const [a, b, c, d] = taps[(x + start) % factor];
      const value = a * row[column] + b * row[column + 1] + c * row[column + 2] + d * row[column + 3];
      give(y * width + x, value);
    }
  }
}
