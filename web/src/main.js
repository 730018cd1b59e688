// The page: what is chosen, what is shown. All work is done in worker.js.
import { runtimeCache, runtimeFiles, styles } from './build.js';

const SIZES = [640, 960, 1536, 2304];
// Up to this long side a picture is painted in one piece, its margin included.
const USUAL_SIZE = 960;
const EXAMPLE = { url: 'pictures/example.jpg', name: 'chelsea', width: 960, height: 639 };
const EXAMPLE_STYLE = 'starry_night';

const get = (id) => document.getElementById(id);
const frame = get('frame');
const panel = get('panel');
const controls = panel.elements;

let photo = EXAMPLE; // `{ url, name, width, height, blob }`
let mix = { [EXAMPLE_STYLE]: 1 }; // Shares by style; empty for none.
let backend = new URLSearchParams(location.search).get('backend') ?? undefined;

/* Painting. */

let worker;
let running; // The request that the worker has.
let pending; // The one after it.
let count = 0;
let finished = false; // Whether the worker holds the picture that is shown.
let whenFinished = []; // What waits for it.

function startWorker() {
  worker?.terminate();
  worker = new Worker(new URL('worker.js', import.meta.url), { type: 'module' });
  worker.onmessage = ({ data }) => answers[data.type](data);
  worker.onerror = () => answers.error({ number: running?.number });
  running = undefined;
  finished = false;
}

function settings() {
  const share = (name) => Number(controls[name].value) / 100;
  return {
    longSide: Number(controls.size.value),
    mix: Object.keys(mix).length ? mix : null,
    strokes: share('strokes'),
    variation: share('variation'),
    strength: share('strength'),
    keepColors: controls.colors.value,
    enlarge: controls.enlarge.checked,
  };
}

/** What takes long of a request; the rest is done in a moment. */
function workOf({ photoNumber, settings }) {
  const { strength, keepColors, ...work } = settings;
  return JSON.stringify([photoNumber, settings.enlarge ? settings : work]);
}

async function paint(candidate = (pending ?? running)?.candidate ?? photo) {
  candidate.number ??= ++count;
  candidate.blob ??= await (await fetch(candidate.url)).blob();
  const request = {
    type: 'render',
    number: ++count,
    photoNumber: candidate.number,
    photo: candidate.blob,
    // The sizes of a new photo are not known yet.
    settings: { ...settings(), ...(candidate === photo ? {} : { longSide: USUAL_SIZE }) },
    backend,
  };
  finished = false;
  pending = { request, candidate };
  if (running?.slow && workOf(running.request) !== workOf(request)) startWorker();
  next();
}

function next() {
  if (running || !pending) return;
  running = { ...pending, number: pending.request.number, slow: false, began: performance.now() };
  pending = undefined;
  worker.postMessage(running.request);
  say('');
  running.timer = window.setTimeout(() => showProgress('Getting ready'), 400);
}

function done() {
  window.clearTimeout(running?.timer);
  running = undefined;
  if (!pending) get('status').hidden = true;
  next();
}

const isCurrent = ({ number }) => running && number === running.number;

const answers = {
  photo(answer) {
    if (!isCurrent(answer) || running.candidate === photo) return;
    photo = running.candidate;
    Object.assign(photo, { width: answer.width, height: answer.height });
    showPhoto();
    offerSizes();
  },
  backend({ backend: used }) {
    get('backend').textContent =
      used === 'webgpu'
        ? 'Painted by the graphics processor.'
        : `Painted by the processor${crossOriginIsolated ? '' : ', with one thread'}.`;
    keepRuntime(used).catch(() => {}); // Some browsers keep nothing, in private windows.
  },
  progress(answer) {
    if (!isCurrent(answer)) return;
    const { stage, part, parts, tile } = answer;
    if (tile) showTile(tile);
    running.slow = true;
    const text = stage === 'enlarging' ? 'Enlarging' : 'Painting';
    window.clearTimeout(running.timer);
    showProgress(parts > 1 ? `${text}, part ${Math.min(part + 1, parts)} of ${parts}` : text, part / parts);
  },
  picture(answer) {
    if (!isCurrent(answer)) return;
    showPicture(answer.bitmap);
    const seconds = (performance.now() - running.began) / 1000;
    get('progress').textContent = `Painted in ${seconds.toFixed(1)} seconds`;
    frame.dataset.seconds = seconds;
    frame.dataset.pictures = Number(frame.dataset.pictures ?? 0) + 1;
    done();
    if (running) return;
    finished = true;
    whenFinished.splice(0).forEach((then) => then());
  },
  file({ blob }) {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(blob);
    const label = Object.keys(mix).join('-') || 'photo';
    link.download = `${photo.name}-${label}.${blob.type === 'image/png' ? 'png' : 'jpg'}`;
    link.click();
    window.setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    get('status').hidden = true;
    get('download').disabled = false;
  },
  error({ number, message, detail }) {
    if (number !== undefined && running && number !== running.number) return;
    get('download').disabled = false;
    whenFinished = [];
    if (!message && backend !== 'wasm') {
      // The graphics processor cannot do it, or has too little memory: once more without it.
      console.warn(detail);
      backend = 'wasm';
      const again = running?.candidate;
      window.clearTimeout(running?.timer);
      startWorker();
      if (again) paint(again);
      return;
    }
    if (detail) console.warn(detail);
    if (!message) startWorker();
    done();
    say(message ?? 'This did not work, perhaps for want of memory. A smaller size may.');
  },
};

function cancel() {
  pending = undefined;
  whenFinished = [];
  get('download').disabled = false;
  window.clearTimeout(running?.timer);
  startWorker();
  get('status').hidden = true;
  worker.postMessage({ type: 'warm', backend });
}

/* What is shown. */

function say(problem) {
  get('problem').textContent = problem;
  get('problem').hidden = !problem;
}

function showProgress(text, share) {
  const bar = get('bar');
  get('status').hidden = false;
  get('progress').textContent = `${text} …`;
  bar.classList.toggle('unknown', !share);
  bar.style.transform = share ? `scaleX(${share})` : '';
}

function showPhoto() {
  URL.revokeObjectURL(get('before').src);
  get('before').src = URL.createObjectURL(photo.blob);
  showAspect();
  frame.classList.add('waiting');
}

/** A part of a large picture, over what was there. */
function showTile({ image, left, top, width, height }) {
  const canvas = get('after');
  const isNew = canvas.hidden || frame.classList.contains('waiting');
  if (isNew || canvas.width !== width || canvas.height !== height) {
    const backdrop = isNew ? get('before') : document.createElement('canvas');
    if (!isNew) {
      Object.assign(backdrop, { width: canvas.width, height: canvas.height });
      backdrop.getContext('2d').drawImage(canvas, 0, 0);
    }
    Object.assign(canvas, { width, height });
    canvas.getContext('2d').drawImage(backdrop, 0, 0, width, height);
    canvas.hidden = false;
    get('example').hidden = true;
    frame.classList.remove('waiting');
  }
  canvas.getContext('2d').putImageData(image, left, top);
}

function showAspect() {
  document.documentElement.style.setProperty('--aspect', photo.width / photo.height);
}

function showPicture(bitmap) {
  const canvas = get('after');
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext('2d').drawImage(bitmap, 0, 0);
  bitmap.close();
  canvas.hidden = false;
  get('example').hidden = true;
  frame.classList.remove('waiting');
}

function moveDivider() {
  frame.style.setProperty('--divider', `${get('divider').value}%`);
}

function offerSizes() {
  const { width, height } = photo;
  const full = Math.max(width, height);
  const sides = [...SIZES.filter((side) => side < full), full];
  const chosen = sides.includes(USUAL_SIZE) ? USUAL_SIZE : Math.min(full, USUAL_SIZE);
  controls.size.replaceChildren(
    ...sides.map((side) => {
      const [w, h] = [width, height].map((each) => Math.max(1, Math.round((each * side) / full)));
      const text = `${w} × ${h}${side === full ? ', full' : ''}`;
      return new Option(text, side, side === chosen, side === chosen);
    }),
  );
}

/* The paintings. */

const titleOf = (style) => style[0].toUpperCase() + style.slice(1).replaceAll('_', ' ');
const isMixing = () => get('mixing').getAttribute('aria-pressed') === 'true';

function showStyles() {
  for (const button of get('styles').children) {
    const { style } = button.dataset;
    const pressed = style ? style in mix : !Object.keys(mix).length;
    button.setAttribute('aria-pressed', pressed);
  }
  const shares = Object.keys(mix).map((style) => {
    const label = document.createElement('label');
    label.className = 'slider';
    label.innerHTML = '<span></span><input type="range" min="1" max="100" /><output></output>';
    const [text, range, output] = label.children;
    text.textContent = titleOf(style);
    range.value = 100 * mix[style];
    output.textContent = `${range.value}%`;
    range.addEventListener('input', () => (output.textContent = `${range.value}%`));
    range.addEventListener('change', () => {
      mix = { ...mix, [style]: Number(range.value) / 100 };
      paint();
    });
    return label;
  });
  get('shares').replaceChildren(...(isMixing() && shares.length > 1 ? shares : []));
}

/** On a phone the paintings are one row that scrolls. */
function showChosen() {
  const row = get('styles');
  const chosen = row.querySelector('[aria-pressed=true]');
  row.scrollLeft = chosen.offsetLeft - (row.clientWidth - chosen.clientWidth) / 2;
}

function choose(style) {
  if (!style) {
    mix = {};
  } else if (!isMixing()) {
    mix = { [style]: 1 };
  } else if (style in mix) {
    if (Object.keys(mix).length === 1) return;
    const { [style]: _, ...others } = mix;
    mix = others;
  } else {
    mix = { ...mix, [style]: 0.5 };
  }
  showStyles();
  paint();
}

function addStyle(style) {
  const button = document.createElement('button');
  button.type = 'button';
  if (style) {
    button.dataset.style = style;
    button.title = titleOf(style);
    button.setAttribute('aria-label', titleOf(style));
    button.style.backgroundImage = `url(pictures/styles/${style}.jpg)`;
  } else {
    button.className = 'none';
    button.textContent = 'none';
    button.setAttribute('aria-label', 'No painting: the photo as it is, to be enlarged');
  }
  button.addEventListener('click', () => choose(style));
  get('styles').append(button);
}

/* Photos. */

function open(file) {
  if (!file) return;
  const name = (file.name ?? 'photo').replace(/\.[^.]*$/, '') || 'photo';
  paint({ name, blob: file });
}

async function openCamera() {
  const dialog = get('viewfinder');
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: 'environment', width: { ideal: 3840 }, height: { ideal: 2160 } },
    });
  } catch {
    say('There is no camera that this page may use.');
    return;
  }
  const video = get('video');
  video.srcObject = stream;
  dialog.addEventListener('close', () => stream.getTracks().forEach((track) => track.stop()), {
    once: true,
  });
  get('shoot').onclick = () => {
    const canvas = document.createElement('canvas');
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext('2d').drawImage(video, 0, 0);
    canvas.toBlob((blob) => open(new File([blob], 'camera.png', { type: blob.type })));
    dialog.close();
  };
  dialog.showModal();
}

/* Without a network. */

async function keepRuntime(used) {
  if (!('caches' in window)) return;
  const cache = await caches.open(runtimeCache);
  for (const file of runtimeFiles[used]) {
    if (!(await cache.match(file))) await cache.add(file).catch(() => {});
  }
  document.documentElement.dataset.offline = Boolean(await navigator.serviceWorker?.ready);
}

async function serveOffline() {
  if (!navigator.serviceWorker) return;
  await navigator.serviceWorker.register('sw.js').catch(() => {});
  await navigator.serviceWorker.ready;
  // Threads need headers that a simple server does not send; the service worker adds them.
  if (crossOriginIsolated || sessionStorage.getItem('isolated') || count) return;
  sessionStorage.setItem('isolated', 'tried');
  location.reload();
}

/* Events. */

get('divider').addEventListener('input', moveDivider);
get('cancel').addEventListener('click', cancel);
get('open').addEventListener('click', () => get('file').click());
get('file').addEventListener('change', ({ target }) => {
  open(target.files[0]);
  target.value = '';
});
get('camera').addEventListener('click', openCamera);
get('close').addEventListener('click', () => get('viewfinder').close());
get('mixing').addEventListener('click', () => {
  get('mixing').setAttribute('aria-pressed', !isMixing());
  if (!isMixing() && Object.keys(mix).length > 1) choose(Object.keys(mix)[0]);
  showStyles();
});
get('download').addEventListener('click', () => {
  const write = () => {
    showProgress('Writing the file');
    worker.postMessage({ type: 'write', kind: get('kind').value });
  };
  get('download').disabled = true;
  if (finished) {
    write();
  } else {
    whenFinished = [write];
    if (!running) paint();
  }
});
panel.addEventListener('submit', (event) => event.preventDefault());
panel.addEventListener('input', ({ target }) => {
  const output = target.closest('.slider')?.querySelector('output');
  if (output) output.textContent = `${target.value}%`;
  if (target.name === 'strength') paint();
});
panel.addEventListener('change', ({ target }) => {
  if (target.name && target.name !== 'strength') paint();
});
document.addEventListener('paste', ({ clipboardData }) => {
  open([...clipboardData.files].find((file) => file.type.startsWith('image/')));
});
for (const type of ['dragenter', 'dragover']) {
  document.addEventListener(type, (event) => {
    if (![...event.dataTransfer.types].includes('Files')) return;
    event.preventDefault();
    get('drop').hidden = false;
  });
}
document.addEventListener('dragleave', ({ relatedTarget }) => {
  if (!relatedTarget) get('drop').hidden = true;
});
document.addEventListener('drop', (event) => {
  event.preventDefault();
  get('drop').hidden = true;
  open(event.dataTransfer.files[0]);
});

[...styles, undefined].forEach(addStyle);
showAspect();
offerSizes();
showStyles();
moveDivider();
showChosen();
startWorker();
serveOffline();
worker.postMessage({ type: 'warm', backend });
