// Find faces: a port of fer2013_cnn/prediction/faces.py, with its names, constants and order of operations.
//
// A candidate is [x, y, side, right eye x, y, left eye x, y, score]: centre, side and eyes in pixels, score 0–1.
// A face is [left, top, width, height, confidence, angle]: pixels; 0–1; degrees, clockwise, around the centre.
import {openSession, pause, Tensor} from './load.js'
import {resize, resizeBox, round, warp, windowOf} from './pixels.js'

/** @typedef {number[]} Candidate */
/** @typedef {number[]} Face */
/** @typedef {import('./pixels.js').Pixels} Pixels */

// side of the input; cells a side and anchors a cell
const NETWORKS = {short: [128, [[16, 2], [8, 6]]], full: [192, [[48, 1]]]}
const MIN_SCORE = .3
const MAX_SIDE = 1280
const TILES = [640, 360]
const SURROUNDINGS = 2.5
const FRAME_SIDE = 1.1, FRAME_RISE = .1
export const MIN_CONFIDENCE = .62

const loaded = {}  // name → {session, size, anchors}

/** Centres of the anchors, [x, y] from 0 to 1. */
function anchorsOf(grids) {
  const anchors = []
  for (const [cells, count] of grids) {
    for (let y = 0; y < cells; y++) {
      for (let x = 0; x < cells; x++) {
        for (let i = 0; i < count; i++) anchors.push([(x + .5)/cells, (y + .5)/cells])
      }
    }
  }
  return anchors
}

/**
 * Load a detector network.
 * @param {string} name 'short' or 'full'
 * @param {Uint8Array} bytes its ONNX file
 */
export async function loadDetector(name, bytes) {
  const [size, grids] = NETWORKS[name]
  loaded[name] = {session: await openSession(bytes), size, anchors: anchorsOf(grids)}
}

/**
 * Candidates in one window. A smaller window is padded with grey at the right and below.
 * @param {string} name 'short' or 'full'
 * @param {Pixels} window RGB, at most as large as the network's input
 * @returns {Promise<Candidate[]>}
 */
async function detect(name, window, minScore = MIN_SCORE) {
  const {session, size, anchors} = loaded[name]
  const input = new Float32Array(size*size*3).fill(128/127.5 - 1)
  const length = window.width*3
  for (let y = 0; y < window.height; y++) {
    for (let i = 0; i < length; i++) input[y*size*3 + i] = window.data[y*length + i]/127.5 - 1
  }
  const {boxes, scores} = await session.run({images: new Tensor('float32', input, [1, size, size, 3])})
  await pause()
  const found = []
  anchors.forEach(([anchorX, anchorY], i) => {
    const score = 1/(1 + Math.exp(-Math.max(-50, Math.min(50, scores.data[i]))))
    if (score < minScore) return
    const box = boxes.data.subarray(16*i, 16*i + 16), x = anchorX*size, y = anchorY*size
    found.push([box[0] + x, box[1] + y, box[2], box[4] + x, box[5] + y, box[6] + x, box[7] + y, score])
  })
  return found
}

/** Positions of tiles of `size` pixels that cover `length` pixels and overlap by at least a third. */
function tileStarts(length, size) {
  const count = Math.max(1, Math.ceil((length - size)/(size*2/3)) + 1), last = Math.max(0, length - size)
  return Array.from({length: count}, (_, i) => count === 1 ? 0 : round(i === count - 1 ? last : i*(last/(count - 1))))
}

/** Whether a candidate keeps a distance of 2 % from those borders of a tile behind which the picture continues. */
function inside(box, x, y, size, width, height) {
  const within = (centre, start, length) => (centre - box[2]/2 > .02*size || start === 0)
    && (centre + box[2]/2 < .98*size || start + size >= length)
  return within(box[0], x, width) && within(box[1], y, height)
}

/**
 * Detect faces in overlapping tiles.
 * @param {Pixels} pixels RGB
 * @param {string} name 'short' or 'full'
 * @param {number} tile side in pixels
 * @returns {Promise<Candidate[]>}
 */
async function search(pixels, name, tile) {
  const {size} = loaded[name], scale = size/tile
  const [width, height] = [pixels.width, pixels.height].map(side => Math.max(1, round(side*scale)))
  const small = resize(pixels, width, height, scale < 1)
  const found = []
  for (const y of tileStarts(height, size)) {
    for (const x of tileStarts(width, size)) {
      for (const box of await detect(name, windowOf(small, x, y, size))) {
        if (!inside(box, x, y, size, width, height)) continue
        const shift = [x, y, 0, x, y, x, y]
        found.push([...shift.map((value, i) => (box[i] + value)/scale), box[7]])
      }
    }
  }
  return found
}

/** Overlap of two squares: intersection over union, and over the smaller area. */
function overlaps(box, other) {
  const least = Math.min(box[2], other[2])
  const sides = [0, 1].map(i => (box[2] + other[2])/2 - Math.abs(box[i] - other[i]))
  const common = sides.reduce((area, side) => area*Math.max(0, Math.min(side, least)), 1)
  return [common/(box[2]**2 + other[2]**2 - common), common/least**2]
}

/**
 * Combine the candidates of each face into one, with the highest of their scores.
 * @param {Candidate[]} candidates
 * @returns {Candidate[]} the highest score first
 */
function merge(candidates) {
  const merged = []
  let left = candidates.slice().sort((a, b) => b[7] - a[7])  // stable, as in Python
  while (left.length) {
    const best = left[0], votes = left.filter(other => overlaps(best, other)[0] >= .3)
    const total = votes.reduce((sum, vote) => sum + vote[7], 0)
    const mean = i => votes.reduce((sum, vote) => sum + vote[i]*vote[7], 0)/total
    merged.push([0, 1, 2, 3, 4, 5, 6].map(mean).concat(votes[0][7]))
    left = left.filter(other => {
      const [union, smaller] = overlaps(best, other)
      return union < .2 && smaller < .5
    })
  }
  return merged
}

/** A picture reduced to `MAX_SIDE`, and the factor, ≤ 1. */
function reduceImage(image) {
  const scale = Math.min(1, MAX_SIDE/Math.max(image.width, image.height))
  if (scale === 1) return [image, 1]
  const [width, height] = [image.width, image.height].map(side => Math.max(1, round(side*scale)))
  return [resizeBox(image, width, height), scale]
}

/** Candidates of a picture, one for each face. */
async function firstLook(pixels) {
  const side = Math.max(pixels.width, pixels.height)
  const found = [...await search(pixels, 'short', side), ...await search(pixels, 'full', side)]
  for (const tile of TILES.filter(tile => tile < .9*side)) found.push(...await search(pixels, 'full', tile))
  return merge(found)
}

/** Rotate a vector (right, down) by an angle in degrees, clockwise. */
function turn([x, y], angle) {
  const a = angle*Math.PI/180
  return [x*Math.cos(a) - y*Math.sin(a), x*Math.sin(a) + y*Math.cos(a)]
}

/** Angle of the line from the right to the left eye, in degrees, clockwise. */
const tilt = candidate => Math.atan2(candidate[6] - candidate[4], candidate[5] - candidate[3])*180/Math.PI

/**
 * A square of a picture, turned upright and resized; grey outside of the picture.
 * @param {Pixels} pixels RGB
 * @param {number} x of the centre, in pixels; y and side likewise
 * @param {number} angle degrees, clockwise
 * @returns {Pixels} of size × size pixels
 */
function cutOut(pixels, x, y, side, angle, size) {
  const fine = size*Math.min(4, Math.max(1, Math.ceil(side/size)))  // sampled finely, then averaged
  const right = turn([side/fine, 0], angle), down = turn([0, side/fine], angle)
  const corner = [x, y].map((centre, i) => centre - (right[i] + down[i])*fine/2 + (right[i] + down[i])/2 - .5)
  return resize(warp(pixels, [0, 1].map(i => [right[i], down[i], corner[i]]), fine), size, size)
}

/** Detect each candidate again in an upright square around it. If it is not found, its score is halved. */
async function secondLook(pixels, candidates) {
  const size = NETWORKS.short[0], looked = []
  for (const row of candidates) {
    const angle = tilt(row), side = SURROUNDINGS*row[2]
    const found = merge(await detect('short', cutOut(pixels, row[0], row[1], side, angle, size), .1))
    const best = found.find(box =>
      Math.max(Math.abs(box[0] - size/2), Math.abs(box[1] - size/2)) < size/2/SURROUNDINGS)
    if (!best) {
      looked.push([...row.slice(0, 7), row[7]/2])
      continue
    }
    const place = (x, y) => turn([x - size/2, y - size/2], angle).map((value, i) => value*side/size + row[i])
    looked.push([...place(best[0], best[1]), best[2]*side/size, ...place(best[3], best[4]),
                 ...place(best[5], best[6]), row[7]/2 + best[7]/2])
  }
  return looked
}

/** The squares around faces that FER2013 would show; `scale` is that of the pixels in which they were found. */
function toSquares(candidates, scale) {
  return candidates.map(row => {
    const angle = tilt(row), side = FRAME_SIDE*row[2], rise = turn([0, FRAME_RISE*row[2]], angle)
    const [left, top] = [0, 1].map(i => row[i] - rise[i] - side/2)
    return [left/scale, top/scale, side/scale, side/scale, row[7], angle]
  })
}

/**
 * Find the faces of a picture.
 * @param {Pixels} image RGB
 * @returns {Promise<Face[]>} from left to right
 */
export async function findFaces(image) {
  const [pixels, scale] = reduceImage(image)
  const looked = merge(await secondLook(pixels, await firstLook(pixels)))
  const faces = toSquares(looked.filter(row => row[7] >= MIN_CONFIDENCE), scale)
  return faces.sort((a, b) => a[0] - b[0] || a[1] - b[1])
}

/** The inverse of `toSquares`, with eyes that only show the angle. */
function toCandidates(faces, scale) {
  return faces.map(([left, top, width, height, confidence, angle]) => {
    const side = width/FRAME_SIDE, down = turn([0, FRAME_RISE*side], angle), right = turn([1, 0], angle)
    const centre = [left + width/2 + down[0], top + height/2 + down[1]]
    const eyes = [-1, 1].flatMap(sign => centre.map((value, i) => (value + sign*right[i])*scale))
    return [...centre.map(value => value*scale), side*scale, ...eyes, confidence]
  })
}

/**
 * Find faces near their places in the previous frame of a video.
 * @param {Pixels} image RGB
 * @param {Face[]} faces of the previous frame
 * @returns {Promise<Face[]>} those that were found again, in the same order
 */
export async function followFaces(image, faces) {
  const [pixels, scale] = reduceImage(image)
  const looked = await secondLook(pixels, toCandidates(faces, scale))
  return toSquares(looked.filter(row => row[7] >= MIN_CONFIDENCE), scale)
}
