// Serves the page without a network, and with the headers that threads need. The build fills in what
// is in capitals.
const PAGE = 'BUILD';
const RUNTIME = 'RUNTIME_CACHE';
const FILES = 'FILES';

self.addEventListener('install', (event) => {
  const kept = caches.open(PAGE).then((cache) =>
    cache.addAll(FILES.map((file) => new Request(file, { cache: 'no-cache' }))),
  );
  event.waitUntil(kept.then(() => self.skipWaiting()));
});

self.addEventListener('activate', (event) => {
  const cleaned = caches
    .keys()
    .then((names) => names.filter((name) => name !== PAGE && name !== RUNTIME))
    .then((names) => Promise.all(names.map((name) => caches.delete(name))));
  event.waitUntil(cleaned.then(() => self.clients.claim()));
});

self.addEventListener('fetch', (event) => {
  const url = new URL(event.request.url);
  if (event.request.method === 'GET' && url.origin === location.origin) {
    event.respondWith(answer(event.request));
  }
});

async function answer(request) {
  const found = await caches.match(request, { ignoreSearch: true });
  const response = found ?? (await fetch(request));
  if (!response.ok) return response;
  const headers = new Headers(response.headers);
  headers.set('Cross-Origin-Opener-Policy', 'same-origin');
  headers.set('Cross-Origin-Embedder-Policy', 'require-corp');
  return new Response(response.body, { status: response.status, headers });
}
