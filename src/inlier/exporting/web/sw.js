// Keeps the page, so that it opens without a network; the model itself is kept by the page.

const PREFIX = `inlier ${self.registration.scope} `;
const CACHE = `${PREFIX}__VERSION__`;
const FILES = __FILES__;

self.addEventListener("install", (event) => {
  const keep = async () => {
    const cache = await caches.open(CACHE);
    await cache.addAll(FILES.map((name) => new Request(name, {cache: "reload"})));
    await self.skipWaiting();
  };
  event.waitUntil(keep());
});

self.addEventListener("activate", (event) => {
  const tidy = async () => {
    const names = await caches.keys();
    await Promise.all(names.filter((of) => of.startsWith(PREFIX) && of !== CACHE).map((of) => caches.delete(of)));
    await self.clients.claim();
  };
  event.waitUntil(tidy());
});

self.addEventListener("fetch", (event) => {
  const {request} = event;
  if (request.method !== "GET" || !request.url.startsWith(self.registration.scope)) return;
  const answer = async () => {
    const cache = await caches.open(CACHE);
    const wanted = request.mode === "navigate" ? "index.html" : request;
    return (await cache.match(wanted, {ignoreSearch: true})) ?? fetch(request);
  };
  event.respondWith(answer());
});
