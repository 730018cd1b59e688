// The networks, by ONNX Runtime: WebGPU where there is one, else WebAssembly.
import { strokeSizes, styles } from './build.js';
import { cut, mirrored, put, tiles, windows, withoutMargin } from './tiling.js';
import { vary } from './variation.js';

// As of `--mode=stylize`.
export const MARGIN = 16;

// What has little memory: a phone, or what says so.
const SMALL = /Mobi/.test(navigator.userAgent) || (navigator.deviceMemory ?? 8) < 4;

// Of models/stylization.py and super_resolution.py: side of the largest tile; how far tiles overlap,
// the reach of the network; where they start; and for which tiles windows are as large as they are.
const STYLE = { tile: 1024, margin: 60, grid: 4, windows: SMALL ? 256 : 1024 };
const SUPERRES = { tile: SMALL ? 128 : 256, margin: 15, grid: 1 };
export const FACTOR = 4;

const WEIGHTS = { superres: 'superres-x4-feature.safetensors' };
const base = new URL('..', import.meta.url);

let runtime;
const sessions = new Map();
const files = new Map();

async function hasGpu() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
  } catch {
    return false;
  }
}

/** Loads ONNX Runtime; `wanted` is `"webgpu"`, `"wasm"`, or nothing for the best. */
export async function start(wanted) {
  if (runtime) return runtime.backend;
  const backend = wanted ?? ((await hasGpu()) ? 'webgpu' : 'wasm');
  const ort = await import(new URL(`ort/ort.${backend}.min.mjs`, base));
  ort.env.logLevel = 'error';
  // The threads need an isolated page; more of them than eight hardly help.
  const cores = Math.min(8, navigator.hardwareConcurrency || 1);
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? cores : 1;
  runtime = { ort, backend };
  return backend;
}

function file(path) {
  if (!files.has(path)) {
    const loaded = fetch(new URL(path, base)).then(async (response) => {
      if (!response.ok) throw new Error(`${path}: ${response.status}`);
      return new Uint8Array(await response.arrayBuffer());
    });
    files.set(path, loaded);
  }
  return files.get(path);
}

async function session(name) {
  if (!sessions.has(name)) {
    const weights = WEIGHTS[name] ?? 'styles.safetensors';
    const [graph, data] = await Promise.all([
      file(`networks/${name}.onnx`),
      file(`networks/${weights}`),
    ]);
    const options = {
      executionProviders: [runtime.backend],
      externalData: [{ path: weights, data }],
    };
    sessions.set(name, await runtime.ort.InferenceSession.create(graph, options));
  }
  return sessions.get(name);
}

export const warm = () => session('styles');

/** Applies a graph to pixels `(count, height, width, 3)`; gives its output's `data` and `dims`. */
export async function run(name, pixels, [count, height, width], inputs = {}) {
  const { Tensor } = runtime.ort;
  const images = new Tensor('float32', pixels, [count, height, width, 3]);
  const results = await (await session(name)).run({ images, ...inputs });
  const [result] = Object.values(results);
  const data = await result.getData();
  return { data, dims: result.dims };
}

/** The input `style_weights` of the graphs. */
export function styleInput(mix, strokeSize) {
  const weights = styleWeights(mix, strokeSize);
  return { style_weights: new runtime.ort.Tensor('float32', weights, [weights.length]) };
}

/** How much of each row of the network there is: `TrainedNetwork.style_weights`. */
function styleWeights(mix, strokeSize) {
  const total = Object.values(mix).reduce((sum, share) => sum + share, 0);
  const weights = new Float32Array(styles.length * strokeSizes.length);
  const place = Math.log(strokeSize);
  const places = strokeSizes.map(Math.log);
  const last = places.length - 1;
  const ofSizes = places.map(() => 0);
  const upper = Math.min(last, Math.max(1, places.findIndex((each) => each >= place)));
  const step = (place - places[upper - 1]) / (places[upper] - places[upper - 1]);
  const share = Math.min(Math.max(step, 0), 1);
  ofSizes[upper - 1] = 1 - share;
  ofSizes[upper] = share;
  styles.forEach((style, index) =>
    ofSizes.forEach((ofSize, size) => {
      weights[index * places.length + size] = ((mix[style] ?? 0) / total) * ofSize;
    }),
  );
  return weights;
}

/** The size of strokes that is a share of a picture, as far as the network knows it. */
function strokePixels(share, { width, height }) {
  const pixels = share * Math.max(width, height);
  return Math.min(Math.max(pixels, strokeSizes[0]), strokeSizes.at(-1));
}

/** A photo in a mix of styles, as `--mode=stylize` paints it.
 *
 * Reports `{ part, parts }`, and of finished tiles `{ picture, place }`: where they are in which.
 */
export async function stylize(photo, { mix, strokes, variation }, report) {
  const strokeSize = strokePixels(strokes, photo);
  const varied = mirrored(vary(photo, { amount: variation, strokeSize }), MARGIN);
  const inputs = styleInput(mix, strokeSize);
  const parts = tiles(varied, STYLE.tile, STYLE.margin, STYLE.grid);
  if (parts.length === 1) {
    report({ part: 0, parts: 1 });
    const result = await run('styles', varied.data, [1, varied.height, varied.width], inputs);
    return withoutMargin({ ...varied, data: result.data }, MARGIN);
  }
  report({ part: 0, parts: parts.length + 1 });
  const spread = windows(varied, STYLE.windows);
  const [{ row, column }] = spread;
  const size = [spread.length, row.stop - row.start, column.stop - column.start];
  const pixels = new Float32Array(3 * size[0] * size[1] * size[2]);
  spread.forEach((window, index) =>
    pixels.set(cut(varied, window), (index * pixels.length) / spread.length),
  );
  const statistics = await run('styles-statistics', pixels, size, inputs);
  inputs.statistics = new runtime.ort.Tensor('float32', statistics.data, statistics.dims);
  const result = { ...varied, data: new Float32Array(varied.data.length) };
  report({ part: 1, parts: parts.length + 1 });
  await inTiles(varied, parts, result, 1, 'styles-tile', inputs, (done, place) =>
    report({ part: done + 1, parts: parts.length + 1, picture: result, place }),
  );
  return withoutMargin(result, MARGIN);
}

/** A picture that is four times as large, as `--mode=superres` makes it. */
export async function enlarge(picture, report) {
  const { width, height } = picture;
  const result = { width: FACTOR * width, height: FACTOR * height };
  result.data = new Float32Array(3 * result.width * result.height);
  const parts = tiles(picture, SUPERRES.tile, SUPERRES.margin, SUPERRES.grid);
  report({ part: 0, parts: parts.length });
  await inTiles(picture, parts, result, FACTOR, 'superres', {}, (done) =>
    report({ part: done, parts: parts.length }),
  );
  if (isGrey(picture.data)) makeGrey(result.data);
  return result;
}

async function inTiles(picture, parts, result, scale, name, inputs, report) {
  for (const [index, part] of parts.entries()) {
    const { row, column } = part;
    const size = [1, row.stop - row.start, column.stop - column.start];
    put(result, (await run(name, cut(picture, part), size, inputs)).data, part, scale);
    report(index + 1, part);
  }
}

function isGrey(data) {
  for (let at = 0; at < data.length; at += 3) {
    const difference = Math.abs(data[at + 1] - data[at]) + Math.abs(data[at + 2] - data[at]);
    if (difference >= 1e-4) return false;
  }
  return true;
}

function makeGrey(data) {
  for (let at = 0; at < data.length; at += 3) {
    data.fill((data[at] + data[at + 1] + data[at + 2]) / 3, at, at + 3);
  }
}
