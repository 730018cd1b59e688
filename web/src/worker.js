// Everything that takes time: reads a photo, paints it, and writes the file.
import { blend } from './color.js';
import { enlarge, FACTOR, MARGIN, start, stylize, warm } from './networks.js';
import { cut } from './tiling.js';

// What a canvas of today's browsers holds, and the memory of a usual computer.
const MOST_PIXELS = 100e6;

class Problem extends Error {}

// What the last request made, each with what it was made of: most requests change little.
const made = new Map();
let shown; // An OffscreenCanvas with the finished picture.

async function once(name, key, make) {
  const text = JSON.stringify(key);
  if (made.get(name)?.text !== text) {
    made.delete(name);
    made.set(name, { text, value: await make() });
  }
  return made.get(name).value;
}

async function decoded(photo) {
  let bitmap;
  try {
    // Turned upright as its EXIF data say.
    bitmap = await createImageBitmap(photo, { imageOrientation: 'from-image' });
  } catch {
    throw new Problem('This file cannot be read: it is damaged, or no picture that this browser knows.');
  }
  if (bitmap.width * bitmap.height > MOST_PIXELS) {
    throw new Problem(`This photo has ${size(bitmap)} pixels, more than fit here.`);
  }
  return bitmap;
}

const size = ({ width, height }) => `${width} × ${height}`;

/** RGB floats in [0, 1] over white, with this long side. */
async function pixels(bitmap, longSide) {
  const scale = longSide / Math.max(bitmap.width, bitmap.height);
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.fillStyle = '#fff';
  context.fillRect(0, 0, width, height);
  if (scale === 1) {
    context.drawImage(bitmap, 0, 0);
  } else {
    const options = { resizeWidth: width, resizeHeight: height, resizeQuality: 'high' };
    context.drawImage(await createImageBitmap(bitmap, options), 0, 0);
  }
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Float32Array(3 * width * height);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    for (let c = 0; c < 3; c++) data[to + c] = rgba[from + c] / 255;
  }
  return { width, height, data };
}

/** Rows of a picture in 8 bits, as a canvas takes them. */
function imageData({ width, height, data }, top = 0, rows = height) {
  const rgba = new Uint8ClampedArray(4 * width * rows);
  for (let from = 3 * width * top, to = 0; to < rgba.length; from += 3, to += 4) {
    for (let c = 0; c < 3; c++) rgba[to + c] = 255 * data[from + c];
    rgba[to + 3] = 255;
  }
  return new ImageData(rgba, width, rows);
}

/** A finished tile of a picture that still has its margin, for the page to show. */
function preview(picture, { row, column }) {
  const width = picture.width - 2 * MARGIN;
  const height = picture.height - 2 * MARGIN;
  const [left, right] = [column.keptStart, column.keptStop].map((at) =>
    Math.min(Math.max(at - MARGIN, 0), width),
  );
  const [top, bottom] = [row.keptStart, row.keptStop].map((at) =>
    Math.min(Math.max(at - MARGIN, 0), height),
  );
  const part = {
    row: { start: top + MARGIN, stop: bottom + MARGIN },
    column: { start: left + MARGIN, stop: right + MARGIN },
  };
  const data = cut(picture, part);
  const image = imageData({ width: right - left, height: bottom - top, data });
  return { image, left, top, width, height };
}

function draw(picture) {
  shown = new OffscreenCanvas(picture.width, picture.height);
  const context = shown.getContext('2d');
  if (!context) throw new Problem(`This browser cannot hold a picture of ${size(picture)} pixels.`);
  for (let top = 0; top < picture.height; top += 256) {
    const rows = Math.min(256, picture.height - top);
    context.putImageData(imageData(picture, top, rows), 0, top);
  }
}

async function render({ number, photoNumber, photo, settings, backend }) {
  const report = (progress) => postMessage({ type: 'progress', number, ...progress });
  const bitmap = await once('photo', photoNumber, () => decoded(photo));
  const { width, height } = bitmap;
  postMessage({ type: 'photo', number, width, height });
  const longSide = Math.min(settings.longSide, Math.max(width, height));
  const times = settings.enlarge ? FACTOR : 1;
  if (times ** 2 * longSide ** 2 * (Math.min(width, height) / Math.max(width, height)) > MOST_PIXELS) {
    throw new Problem('Four times as large, this picture is too large: choose a smaller size.');
  }
  const sourceKey = [photoNumber, longSide];
  const source = await once('source', sourceKey, () => pixels(bitmap, longSide));
  postMessage({ type: 'backend', number, backend: await start(backend) });
  let picture = source;
  if (settings.mix) {
    const { mix, strokes, variation, keepColors, strength } = settings;
    const key = [sourceKey, mix, strokes, variation];
    const painted = await once('painted', key, () =>
      stylize(source, { mix, strokes, variation }, ({ picture, place, ...progress }) =>
        report({
          stage: 'painting',
          ...progress,
          tile: place && strength === 1 && keepColors === 'none' && preview(picture, place),
        }),
      ),
    );
    picture = blend(painted, source, { keepColors, strength });
  }
  if (settings.enlarge) {
    const key = [sourceKey, settings];
    picture = await once('enlarged', key, () =>
      enlarge(picture, (progress) => report({ stage: 'enlarging', ...progress })),
    );
  }
  draw(picture);
  const result = await createImageBitmap(shown);
  postMessage({ type: 'picture', number, bitmap: result }, [result]);
}

async function write({ number, kind }) {
  const blob = await shown.convertToBlob({ type: kind, quality: 0.95 });
  if (blob?.type !== kind) throw new Problem('This browser cannot write the picture.');
  postMessage({ type: 'file', number, blob });
}

/** Loads what painting needs, before it is needed. */
async function prepare({ backend }) {
  postMessage({ type: 'backend', backend: await start(backend) });
  await warm();
}

const actions = { render, write, warm: prepare };

// One after the other.
let queue = Promise.resolve();
onmessage = ({ data }) => {
  queue = queue.then(async () => {
    try {
      await actions[data.type](data);
    } catch (error) {
      const message = error instanceof Problem ? error.message : undefined;
      postMessage({ type: 'error', number: data.number, message, detail: String(error) });
    }
  });
};
