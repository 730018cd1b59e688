// models/tiling.py and the windows of models/stylization.py.

/** Tiles of an axis: `start` to `stop` is read, `keptStart` to `keptStop` is kept. */
export function spans(length, tile, margin, grid = 1) {
  if (length <= tile) return [{ start: 0, stop: length, keptStart: 0, keptStop: length }];
  const inner = length - 2 * margin;
  const count = Math.ceil(inner / (tile - 2 * margin));
  const side = Math.ceil((Math.ceil(inner / count) + 2 * margin) / grid) * grid;
  const starts = [];
  for (let start = 0; start < length - side; start += side - 2 * margin) starts.push(start);
  starts.push(Math.floor((length - side) / grid) * grid);
  const stops = [...starts.slice(0, -1).map((start) => start + side), length];
  const borders = stops.slice(0, -1).map((stop) => stop - margin);
  return starts.map((start, index) => ({
    start,
    stop: stops[index],
    keptStart: index ? borders[index - 1] : 0,
    keptStop: index < borders.length ? borders[index] : length,
  }));
}

/** All tiles of a picture, from the top left, `{ row, column }`. */
export function tiles({ width, height }, tile, margin, grid) {
  const columns = spans(width, tile, margin, grid);
  return spans(height, tile, margin, grid).flatMap((row) =>
    columns.map((column) => ({ row, column })),
  );
}

const WINDOWS = 3;
const GRID = 4;

function windowsAlong(length, largest) {
  const count = Math.min(WINDOWS, Math.ceil(length / largest));
  const side = Math.min(largest, Math.ceil(length / count));
  return Array.from({ length: count }, (_, index) => {
    const start = count > 1 ? Math.trunc(((length - side) * index) / (count - 1)) : 0;
    return { start: Math.floor(start / GRID) * GRID, stop: Math.floor(start / GRID) * GRID + side };
  });
}

/** Windows spread over a picture, from which the statistics of all of it are estimated. */
export function windows({ width, height }, tile) {
  const largest = Math.min(512, Math.max(256, tile));
  const columns = windowsAlong(width, largest);
  return windowsAlong(height, largest).flatMap((row) =>
    columns.map((column) => ({ row, column })),
  );
}

/** The pixels of a part of a picture. */
export function cut({ width, data }, { row, column }) {
  const size = 3 * (column.stop - column.start);
  const part = new Float32Array((row.stop - row.start) * size);
  for (let y = row.start; y < row.stop; y++) {
    const from = 3 * (y * width + column.start);
    part.set(data.subarray(from, from + size), (y - row.start) * size);
  }
  return part;
}

/** Puts what is kept of a computed tile, `scale` times as large, into the whole result. */
export function put(result, pixels, { row, column }, scale = 1) {
  const width = scale * (column.stop - column.start);
  const first = scale * (column.keptStart - column.start);
  const last = scale * (column.keptStop - column.start);
  for (let y = scale * row.keptStart; y < scale * row.keptStop; y++) {
    const from = 3 * ((y - scale * row.start) * width + first);
    const to = 3 * (y * result.width + scale * column.keptStart);
    result.data.set(pixels.subarray(from, from + 3 * (last - first)), to);
  }
}

/** A picture with a mirrored margin, as `numpy.pad` does it. */
export function mirrored({ width, height, data }, margin) {
  const at = (index, length) => {
    const period = Math.max(1, 2 * (length - 1));
    const place = ((index % period) + period) % period;
    return place < length ? place : period - place;
  };
  const result = { width: width + 2 * margin, height: height + 2 * margin };
  result.data = new Float32Array(3 * result.width * result.height);
  for (let y = 0; y < result.height; y++) {
    const row = width * at(y - margin, height);
    for (let x = 0; x < result.width; x++) {
      const from = 3 * (row + at(x - margin, width));
      const to = 3 * (y * result.width + x);
      for (let channel = 0; channel < 3; channel++) result.data[to + channel] = data[from + channel];
    }
  }
  return result;
}

/** The picture without its margin. */
export function withoutMargin(picture, margin) {
  const width = picture.width - 2 * margin;
  const height = picture.height - 2 * margin;
  const part = {
    row: { start: margin, stop: margin + height },
    column: { start: margin, stop: margin + width },
  };
  return { width, height, data: cut(picture, part) };
}
