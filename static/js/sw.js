// Shows Roost's own page instead of the browser's while the server is offline; caches and changes nothing else.

const CACHE = "roost-offline-1";
const at = (path) => new URL(path, self.registration.scope).href;

self.addEventListener("install", (event) => {
  const kept = ["offline", "login/style.css"].map((path) => new Request(at(path), { cache: "reload" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(kept)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const old = caches.keys().then((names) => Promise.all(names.filter((name) => name.startsWith("roost-offline-") && name !== CACHE).map((name) => caches.delete(name))));
  event.waitUntil(old.then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const isStyle = event.request.url === at("login/style.css");
  if (event.request.mode !== "navigate" && !isStyle) return;
  const shown = isStyle ? event.request : at("offline");
  event.respondWith(fetch(event.request).catch(async (error) => (await caches.match(shown)) ?? Promise.reject(error)));
});
