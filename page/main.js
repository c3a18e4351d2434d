// The page: loading, input, results.
import {answer, classify} from './classify.js'
import {cropFace, SIZE} from './crop.js'
import {findFaces, followFaces, loadDetector} from './detect.js'
import {draw, reducedCopy} from './draw.js'
import {fetchFile, openSession, pause, setUpRuntime} from './load.js'
import {blank, decodeImage, readPixels, UserError} from './pixels.js'

const SEARCH_EVERY = 5             // video frames; the others are only searched around the faces of the frame before
const UNCERTAIN_COLOR = '#c9ced6'
const WORKER_SECONDS = 5           // how long to wait for the service worker

const element = id => document.getElementById(id)
const percent = share => `${Math.round(100*share)}%`
const sessions = {}                // name of a network → its session
let about                          // about.json: texts, classes and files; written by build.py
let camera = null                  // MediaStream while the webcam runs
let work = Promise.resolve()       // pictures are processed one after another

/** Set the line that screen readers announce when it changes. */
function setStatus(text) {
  if (element('status').textContent !== text) element('status').textContent = text
}

/** Show an error, or a text, or nothing. */
function setError(error = '') {
  const unexpected = error && !(error instanceof UserError) && typeof error !== 'string'
  if (unexpected) console.error(error)
  element('error').textContent = unexpected ? `Something went wrong (${error.message}).` : error.message ?? error
}

/** Create an element with properties and children. */
function create(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties)
  made.append(...children)
  return made
}

/** The parts of a text in which links are written as [name](address). */
function readLinks(text) {
  const parts = text.split(/\[(.+?)\]\((https:.+?)\)/)  // text, name, address, text, …
  const link = (name, href) => create('a', {href, target: '_blank', rel: 'noopener'}, name)
  return parts.flatMap((part, i) => i % 3 === 0 ? part : i % 3 === 1 ? link(part, parts[i + 1]) : [])
}

/** Run a task after those before it. */
const enqueue = task => work = work.then(task).catch(setError)

// ---- Loading

/** Fetch files one by one, with a progress bar; `files` are entries of about.json. */
async function fetchFiles(files, label) {
  const bar = element('progress'), total = files.reduce((sum, {bytes}) => sum + bytes, 0), fetched = []
  let received = 0
  setStatus(`Loading ${label} …`)
  bar.hidden = false
  try {
    for (const {path} of files) {
      fetched.push(await fetchFile(path, bytes => {
        received += bytes
        bar.value = Math.min(1, received/total)
        element('loading').textContent = `${(received/1e6).toFixed(1)} of ${(total/1e6).toFixed(1)} MB`
      }))
    }
  } finally {
    bar.hidden = true
    element('loading').textContent = ''
  }
  return fetched
}

/** Wait until the service worker keeps what is fetched; without one the page works, but not offline. */
async function startWorker() {
  const {serviceWorker} = navigator
  if (!serviceWorker || serviceWorker.controller) return
  const control = new Promise(resolve => serviceWorker.addEventListener('controllerchange', resolve, {once: true}))
  const giveUp = new Promise(resolve => setTimeout(resolve, 1000*WORKER_SECONDS))
  try {
    const {active} = await serviceWorker.register('sw.js', {updateViaCache: 'none'})
    if (!active) await Promise.race([control, giveUp])
  } catch { /* private windows of some browsers have none */ }
}

function describeNetwork() {
  const {notice, file} = about.networks[element('network').value]
  element('notice').textContent = notice
  element('network-info').textContent = `${(file.bytes/1e6).toFixed(1)} MB`
}

/** Load the chosen network unless it is there already. */
async function loadNetwork() {
  const name = element('network').value
  if (!sessions[name]) {
    const [bytes] = await fetchFiles([about.networks[name].file], `the network ${name}`)
    sessions[name] = await openSession(bytes)
  }
  return sessions[name]
}

/** Load everything. */
async function start() {
  about = JSON.parse(new TextDecoder().decode(await fetchFile('about.json')))
  element('limits').replaceChildren(...readLinks(about.limits))
  for (const name in about.networks) element('network').append(create('option', {value: name, textContent: name}))
  describeNetwork()
  await startWorker()
  const name = element('network').value, {runtime, detectors, networks} = about
  const files = [runtime, ...Object.values(detectors), networks[name].file]
  const [binary, ...fetched] = await fetchFiles(files, 'the networks')
  setStatus('Starting …')
  await pause()
  setUpRuntime(binary)
  for (const [i, detector] of Object.keys(detectors).entries()) await loadDetector(detector, fetched[i])
  sessions[name] = await openSession(fetched.at(-1))
  await predict(blank(SIZE, SIZE, 3), [[0, 0, SIZE, SIZE, 1, 0]])  // the first call is slower
  for (const id of ['choose', 'webcam', 'network']) element(id).disabled = false
  setStatus(navigator.serviceWorker?.controller ? 'Ready. From now on, the page also works offline.' : 'Ready.')
}

// ---- Prediction

/**
 * Crop and classify faces.
 * @param {import('./pixels.js').Pixels} image RGB
 * @param {import('./detect.js').Face[]} faces
 * @returns {Promise<{face: number[], crop: Uint8Array, probabilities: number[]}[]>}
 */
export async function predict(image, faces) {
  const session = await loadNetwork(), rows = []
  for (const face of faces) {
    const crop = cropFace(image, face)
    rows.push({face, crop, probabilities: await classify(session, crop, about.views)})
    await pause()
  }
  return rows
}

// ---- Results

/** Text and colour of an answer. */
function describe(probabilities) {
  const {index, probability, uncertain} = answer(probabilities, about.min_confidence), name = about.class_names[index]
  return {title: uncertain ? 'uncertain' : `${name} ${percent(probability)}`,
          detail: uncertain ? `most probable: ${name}, ${percent(probability)}` : '',
          color: uncertain ? UNCERTAIN_COLOR : about.colors[index]}
}

/** A card with the crop and a bar for each class. */
function makeCard({face, crop, probabilities}, number) {
  const {title, detail} = describe(probabilities), thumbnail = create('canvas', {width: SIZE, height: SIZE})
  const grey = new ImageData(SIZE, SIZE)
  crop.forEach((value, i) => grey.data.set([value, value, value, 255], 4*i))
  thumbnail.getContext('2d').putImageData(grey, 0, 0)
  thumbnail.setAttribute('aria-hidden', 'true')
  const bars = create('dl')
  probabilities.forEach((probability, i) => {
    const bar = create('div', {className: 'bar'}), track = create('div', {className: 'track'}, bar)
    bar.style.width = `${100*probability}%`
    bar.style.backgroundColor = about.colors[i]
    track.setAttribute('aria-hidden', 'true')
    bars.append(create('dt', {textContent: about.class_names[i]}), track,
                create('dd', {textContent: percent(probability)}))
  })
  const text = create('div', {}, create('h3', {textContent: `${number}: ${title}`}), create('p', {textContent: detail}))
  const card = create('li', {className: 'face'}, create('header', {}, thumbnail, text), bars)
  card.dataset.face = JSON.stringify(face)
  card.dataset.probabilities = JSON.stringify(probabilities)
  return card
}

/** A figure with a picture and the cards of its faces. `show` draws it, and may be called again. */
function makeResult(name) {
  const canvas = create('canvas'), caption = create('figcaption', {textContent: name})
  const cards = create('ol', {className: 'faces'})
  const section = create('section', {}, create('figure', {}, canvas, caption), cards)
  section.setAttribute('aria-label', name)
  canvas.setAttribute('role', 'img')
  let redraw = () => {}
  const show = (source, width, height, rows, note = '') => {
    const answers = rows.map(({probabilities}) => describe(probabilities))
    const marks = rows.map(({face}, i) => ({face, text: answers[i].title, color: answers[i].color}))
    redraw = () => {
      canvas.dataset.labels = JSON.stringify(draw(canvas, source, [width, height], marks))
    }
    canvas.width = width  // gives the canvas its place on the page before the labels are measured
    canvas.height = height
    redraw()
    const title = `${name}: ${count(rows.length)}`
    caption.textContent = title + note
    canvas.setAttribute('aria-label', [title, ...answers.map(({title}) => title)].join(', '))
    cards.replaceChildren(...rows.map((row, i) => makeCard(row, i + 1)))
  }
  new ResizeObserver(() => redraw()).observe(section)
  return {section, show}
}

const count = number => number === 1 ? '1 face' : `${number || 'no'} faces`

/** Find and classify the faces of a picture, and show them below the other results. */
async function showPicture(blob, name) {
  setStatus(`${name}: searching for faces …`)
  const started = performance.now(), bitmap = await decodeImage(blob)
  await pause()
  const image = readPixels(bitmap), rows = await predict(image, await findFaces(image))
  const {section, show} = makeResult(name), copy = reducedCopy(bitmap)
  bitmap.close()
  element('results').append(section)
  show(copy, image.width, image.height, rows)
  setStatus(`${name}: ${count(rows.length)} in ${((performance.now() - started)/1000).toFixed(1)} s.`)
}

/** Process pictures one after another; they replace what was shown. */
function showPictures(files) {
  if (!files.length) return
  stopCamera()
  enqueue(async () => {
    setError()
    element('results').replaceChildren()
    const failed = []
    for (const file of files) {
      const name = file.name || 'picture'
      try { await showPicture(file, name) } catch (error) {
        failed.push(error instanceof UserError ? `${name}: ${error.message}` : error)
        setStatus('')
      }
    }
    setError(failed.find(error => typeof error !== 'string') ?? failed.join('; '))
  })
}

// ---- Webcam

function stopCamera() {
  camera?.getTracks().forEach(track => track.stop())
  camera = null
  element('webcam').textContent = 'Start webcam'
  element('webcam').setAttribute('aria-pressed', 'false')
}

/** Show the webcam with its faces until it is stopped. */
async function runCamera(stream) {
  if (camera !== stream) return
  const video = create('video', {muted: true, playsInline: true, srcObject: stream})
  const {section, show} = makeResult('Webcam')
  await video.play()
  element('results').replaceChildren(section)
  let faces = [], age = 0, shown = null
  while (camera === stream && stream.active) {
    const started = performance.now(), frame = await createImageBitmap(video), image = readPixels(frame)
    const followed = faces.length && age < SEARCH_EVERY - 1 ? await followFaces(image, faces) : []
    if (followed.length && followed.length === faces.length) [faces, age] = [followed, age + 1]
    else [faces, age] = [await findFaces(image), 0]
    const rows = await predict(image, faces)
    const rate = (1000/(performance.now() - started)).toFixed(1)
    show(frame, frame.width, frame.height, rows, `, ${rate} pictures a second`)
    shown?.close()
    shown = frame  // stays open: it is drawn again when the window changes its size
    setStatus(`Webcam: ${count(rows.length)}`)
    await new Promise(requestAnimationFrame)
  }
}

async function toggleCamera() {
  if (camera) return stopCamera()
  const button = element('webcam')
  setError()
  button.disabled = true
  try {
    if (!navigator.mediaDevices) throw new UserError('The webcam needs a page that was loaded over HTTPS.')
    const stream = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 640}, facingMode: 'user'}})
    camera = stream
    button.textContent = 'Stop webcam'
    button.setAttribute('aria-pressed', 'true')
    enqueue(() => runCamera(stream).finally(() => { if (camera === stream) stopCamera() }))
  } catch (error) {
    setError(error instanceof DOMException ? `The webcam cannot be used (${error.message}).` : error)
  } finally { button.disabled = false }
}

// ---- Input

const drop = element('drop')
element('choose').addEventListener('click', () => element('files').click())
element('files').addEventListener('change', event => {
  showPictures([...event.target.files])
  event.target.value = ''
})
element('webcam').addEventListener('click', toggleCamera)
element('network').addEventListener('change', async () => {
  setError()
  describeNetwork()
  try {
    await loadNetwork()
    setStatus(`The network ${element('network').value} is loaded.`)
  } catch (error) { setError(error) }
})
for (const [type, over] of [['dragenter', true], ['dragover', true], ['dragleave', false], ['drop', false]]) {
  document.addEventListener(type, event => {
    event.preventDefault()  // otherwise the browser would open the file
    drop.classList.toggle('over', over)
    if (type === 'drop' && !element('choose').disabled) showPictures([...event.dataTransfer.files])
  })
}
document.addEventListener('paste', event => {
  if (!element('choose').disabled) showPictures([...event.clipboardData.files])
})

start().catch(error => {
  setStatus('')
  setError(error)
})
