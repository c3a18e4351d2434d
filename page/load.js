// Fetch the networks and ONNX Runtime. Large files are stored compressed, so that their size on the wire does not
// depend on the server, and their names contain their checksums, so that a service worker can keep them.
import * as ort from './ort/ort.wasm.min.mjs'
import {UserError} from './pixels.js'

export const {Tensor} = ort

/** Let the browser draw and react to input. Networks run in this thread: the page's Content-Security-Policy, which
 *  keeps pictures on this computer, would not hold in a worker. */
export const pause = () => new Promise(resolve => {
  const {port1, port2} = new MessageChannel()
  port1.onmessage = () => { port1.close(); resolve() }
  port2.postMessage(0)
})

/**
 * Fetch a file and decompress it, unless the server has already done so.
 * @param {string} path relative to the page
 * @param {(bytes: number) => void} onBytes is called with the bytes of each part that has arrived
 * @returns {Promise<Uint8Array>}
 */
export async function fetchFile(path, onBytes = () => {}) {
  const parts = []
  try {
    const response = await fetch(path)
    if (!response.ok) throw new Error(response.status)
    for (const reader = response.body.getReader();;) {
      const {done, value} = await reader.read()
      if (done) break
      parts.push(value)
      onBytes(value.length)
    }
  } catch { throw new UserError(`${path} could not be loaded: check the connection and reload the page`) }
  const blob = new Blob(parts), start = new Uint8Array(await blob.slice(0, 2).arrayBuffer())
  const compressed = start[0] === 0x1f && start[1] === 0x8b
  const body = compressed ? blob.stream().pipeThrough(new DecompressionStream('gzip')) : blob
  return new Uint8Array(await new Response(body).arrayBuffer())
}

/**
 * Set up ONNX Runtime for one thread: without further HTTP headers, browsers give a page no more.
 * @param {Uint8Array} binary its WebAssembly file
 */
export function setUpRuntime(binary) {
  ort.env.logLevel = 'error'
  Object.assign(ort.env.wasm, {numThreads: 1, proxy: false, wasmBinary: binary.buffer,
    wasmPaths: {mjs: new URL('ort/ort-wasm-simd-threaded.mjs', import.meta.url).href}})
}

/** Open an ONNX file. */
export const openSession = bytes => ort.InferenceSession.create(bytes, {executionProviders: ['wasm']})
