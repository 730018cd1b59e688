// Puts the page together in dist/: its files, the networks, and ONNX Runtime.
import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';

const here = import.meta.dirname;
const dist = join(here, 'dist');
const weights = join(here, '..', 'weights', 'networks');
const runtime = join(here, 'node_modules', 'onnxruntime-web');
const networks = ['styles', 'superres-x4-feature'];
// What ONNX Runtime loads with each of its builds.
const runtimeFiles = {
  wasm: ['ort.wasm.min.mjs', 'ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm'],
  webgpu: [
    'ort.webgpu.min.mjs',
    'ort-wasm-simd-threaded.asyncify.mjs',
    'ort-wasm-simd-threaded.asyncify.wasm',
  ],
};

rmSync(dist, { recursive: true, force: true });
mkdirSync(dist);
for (const name of ['index.html', 'style.css', 'icon.svg', 'manifest.webmanifest', 'src', 'networks', 'pictures']) {
  cpSync(join(here, name), join(dist, name), { recursive: true });
}
for (const name of networks) {
  cpSync(join(weights, `${name}.safetensors`), join(dist, 'networks', `${name}.safetensors`));
}
for (const name of Object.values(runtimeFiles).flat()) {
  cpSync(join(runtime, 'dist', name), join(dist, 'ort', name));
}

const file = readFileSync(join(weights, 'styles.safetensors'));
const about = JSON.parse(file.subarray(8, 8 + Number(file.readBigUInt64LE()))).__metadata__;
const { version } = JSON.parse(readFileSync(join(runtime, 'package.json')));
const runtimeCache = `onnxruntime-${version}`;
const constants = {
  styles: JSON.parse(about.styles),
  strokeSizes: JSON.parse(about.stroke_sizes),
  runtimeCache,
  runtimeFiles: Object.fromEntries(
    Object.entries(runtimeFiles).map(([kind, names]) => [kind, names.map((name) => `ort/${name}`)]),
  ),
};
const lines = Object.entries(constants).map(
  ([name, value]) => `export const ${name} = ${JSON.stringify(value)};\n`,
);
writeFileSync(join(dist, 'src', 'build.js'), lines.join(''));

// The service worker keeps all but the runtime, of which a browser needs one of two.
const files = readdirSync(dist, { recursive: true })
  .filter((name) => statSync(join(dist, name)).isFile() && !name.startsWith('ort'))
  .map((name) => name.split(sep).join('/'))
  .sort();
const hash = createHash('sha256');
for (const name of files) hash.update(name).update(readFileSync(join(dist, name)));
const worker = readFileSync(join(here, 'sw.js'), 'utf8')
  .replace("'BUILD'", JSON.stringify(`page-${hash.digest('hex').slice(0, 16)}`))
  .replace("'RUNTIME_CACHE'", JSON.stringify(runtimeCache))
  .replace("'FILES'", JSON.stringify(['./', ...files]));
writeFileSync(join(dist, 'sw.js'), worker);
const size = readdirSync(dist, { recursive: true }).reduce(
  (sum, name) => sum + statSync(join(dist, name)).size,
  0,
);
console.log(`${relative(process.cwd(), dist) || dist}: ${(size / 1e6).toFixed(0)} MB`);
