// Crop a face as FER2013 shows it: the same rule as `crop_face` and `sample_square` in Python.
import {greyPart, reduce} from './pixels.js'

export const SIZE = 48  // pixels

/**
 * Bilinear interpolation; beyond the border the outermost pixel is repeated.
 * @param {import('./pixels.js').Pixels} grey
 * @param {number} column 0 is the middle of the first one; row likewise
 * @returns {number} a grey value
 */
export function interpolate({width, height, data}, column, row) {
  column = Math.max(0, Math.min(width - 1, column))
  row = Math.max(0, Math.min(height - 1, row))
  const left = Math.trunc(column), top = Math.trunc(row)
  const right = Math.min(left + 1, width - 1), below = Math.min(top + 1, height - 1)
  const across = column - left, down = row - top
  const upper = data[top*width + left] + across*(data[top*width + right] - data[top*width + left])
  const lower = data[below*width + left] + across*(data[below*width + right] - data[below*width + left])
  return upper + down*(lower - upper)
}

/**
 * The mean of n × n points for each pixel of the crop.
 * @param {import('./pixels.js').Pixels} grey
 * @param {number} x of the centre, in pixels; y and side likewise
 * @param {number} angle degrees, clockwise
 * @returns {Uint8Array} (48, 48)
 */
function sampleSquare(grey, x, y, side, angle) {
  const n = Math.max(1, Math.ceil(side/SIZE)), a = angle*Math.PI/180, cos = Math.cos(a), sin = Math.sin(a)
  const sums = new Float64Array(SIZE*SIZE)
  const steps = Array.from({length: SIZE*n}, (_, i) => ((i + .5)/(SIZE*n) - .5)*side)
  for (let i = 0; i < SIZE*n; i++) {
    for (let j = 0; j < SIZE*n; j++) {
      sums[Math.floor(i/n)*SIZE + Math.floor(j/n)] += interpolate(
        grey, x - .5 + cos*steps[j] - sin*steps[i], y - .5 + sin*steps[j] + cos*steps[i])
    }
  }
  return Uint8Array.from(sums, sum => sum/(n*n) + .5)
}

/**
 * Crop a face: grey, turned upright.
 * @param {import('./pixels.js').Pixels} image RGB
 * @param {import('./detect.js').Face} face
 * @returns {Uint8Array} (48, 48)
 */
export function cropFace(image, [left, top, width, height, , angle]) {
  const centre = [left + width/2, top + height/2], lengths = [image.width, image.height]
  const side = Math.max(1, height), block = Math.max(1, Math.trunc(side/96))
  const reach = .75*side + 2*block  // half of the square's diagonal, and some
  const starts = centre.map((value, i) => Math.trunc(Math.max(0, Math.min(value - reach, lengths[i] - 1))/block)*block)
  const ends = centre.map((value, i) =>
    Math.min(lengths[i], Math.max(starts[i] + block, Math.ceil((value + reach)/block)*block)))
  const part = reduce(greyPart(image, ...starts, ...ends), block, block)
  return sampleSquare(part, (centre[0] - starts[0])/block, (centre[1] - starts[1])/block, side/block, angle)
}
