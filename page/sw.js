// Service worker: the page works offline once it has been loaded. It answers only requests for the page's own files.
// build.py writes the version and the names of the files here.
const VERSION = '@VERSION@'
const SHELL = ['@SHELL@']        // small files, fetched when the worker is installed
const NETWORKS = ['@NETWORKS@']  // large ones with checksums in their names, kept when the page first fetches them
const PREFIX = 'fer2013-', KEPT = `${PREFIX}networks`
const urls = paths => paths.map(path => new URL(path, self.registration.scope).href)

/** Remove caches of older versions, and networks that this version does not use. */
async function cleanUp() {
  const names = (await caches.keys()).filter(name => name.startsWith(PREFIX))
  await Promise.all(names.filter(name => ![KEPT, PREFIX + VERSION].includes(name)).map(name => caches.delete(name)))
  const kept = await caches.open(KEPT), used = urls(NETWORKS)
  await Promise.all((await kept.keys()).filter(({url}) => !used.includes(url)).map(request => kept.delete(request)))
}

/** The file from the cache, or from the server. */
async function reply(event, url) {
  const network = urls(NETWORKS).includes(url)
  const cache = await caches.open(network ? KEPT : PREFIX + VERSION)
  const found = await cache.match(url)
  if (found) return found
  const response = await fetch(event.request)
  if (network && response.ok) event.waitUntil(cache.put(url, response.clone()).catch(() => {}))  // if there is room
  return response
}

self.addEventListener('install', event => {
  const requests = urls(SHELL).map(url => new Request(url, {cache: 'no-cache'}))  // none of an older version
  event.waitUntil(caches.open(PREFIX + VERSION).then(cache => cache.addAll(requests)))
})

self.addEventListener('activate', event => event.waitUntil(cleanUp().then(() => self.clients.claim())))

self.addEventListener('fetch', event => {
  let url = event.request.url.split(/[?#]/)[0]
  if (url === self.registration.scope) url += 'index.html'
  if (event.request.method === 'GET' && urls([...SHELL, ...NETWORKS]).includes(url)) {
    event.respondWith(reply(event, url))
  }
})
