// Read pictures as Pillow does, and resample them as Pillow and OpenCV do. The canvas resamples in its own way,
// which differs from browser to browser, so it is only used to decode.

/**
 * @typedef {Object} Pixels
 * @property {number} width in pixels
 * @property {number} height in pixels
 * @property {number} channels 3 (RGB) or 1 (grey)
 * @property {Uint8Array} data values 0–255, shape (height, width, channels)
 */

export const MAX_PIXELS = 100_000_000  // of one picture
const BAND = 512                       // rows that are read at once: browsers limit the size of a canvas

/** An error whose message is shown to the user as it is. */
export class UserError extends Error {}

/** Round as Python does: halves to the even neighbour. */
export const round = value => {
  const below = Math.floor(value), rest = value - below
  return rest > .5 || rest === .5 && below % 2 ? below + 1 : below
}

/** A picture without content. */
export const blank = (width, height, channels) =>
  ({width, height, channels, data: new Uint8Array(width*height*channels)})

/**
 * The pixels of a picture or video frame; transparent ones get a white background.
 * @param {ImageBitmap|HTMLVideoElement} source
 * @returns {Pixels} RGB
 */
export function readPixels(source, width = source.width, height = source.height) {
  const canvas = document.createElement('canvas'), pixels = blank(width, height, 3)
  canvas.width = width
  canvas.height = Math.min(BAND, height)
  const pen = canvas.getContext('2d', {colorSpace: 'srgb', willReadFrequently: true})
  for (let top = 0, to = 0; top < height; top += BAND) {
    const rows = Math.min(BAND, height - top)
    pen.fillStyle = '#fff'
    pen.fillRect(0, 0, width, rows)
    pen.drawImage(source, 0, -top)
    const {data} = pen.getImageData(0, 0, width, rows)
    for (let from = 0; from < data.length; from += 4) {
      pixels.data[to++] = data[from]
      pixels.data[to++] = data[from + 1]
      pixels.data[to++] = data[from + 2]
    }
  }
  return pixels
}

/**
 * Decode a picture, upright and with the numbers of the file: as in Python, a colour profile is not applied.
 * @param {Blob} blob an image file
 * @returns {Promise<ImageBitmap>}
 */
export async function decodeImage(blob) {
  let bitmap
  try {
    bitmap = await createImageBitmap(blob, {imageOrientation: 'from-image', colorSpaceConversion: 'none'})
  } catch { throw new UserError('not an image that this browser can read') }
  const count = bitmap.width*bitmap.height
  if (count <= MAX_PIXELS) return bitmap
  bitmap.close()
  throw new UserError(`${count.toLocaleString('en')} pixels, expected at most ${MAX_PIXELS.toLocaleString('en')}`)
}

/**
 * A part of a picture as 8-bit grey, by Pillow's formula.
 * @param {Pixels} image RGB
 * @returns {Pixels} grey
 */
export function greyPart(image, left, top, right, bottom) {
  const part = blank(right - left, bottom - top, 1), {data, width} = image
  for (let y = top, to = 0; y < bottom; y++) {
    for (let x = left, at = 3*(y*width + left); x < right; x++, at += 3) {
      part.data[to++] = (data[at]*19595 + data[at + 1]*38470 + data[at + 2]*7471 + 0x8000) >> 16
    }
  }
  return part
}

/**
 * Means of blocks of pixels, as Pillow's `Image.reduce`.
 * @param {Pixels} image
 * @param {number} across width of a block in pixels
 * @param {number} down height of a block
 * @returns {Pixels}
 */
export function reduce(image, across, down) {
  if (across === 1 && down === 1) return image
  const {width, height, channels, data} = image
  const small = blank(Math.ceil(width/across), Math.ceil(height/down), channels)
  for (let y = 0, to = 0; y < height; y += down) {
    const bottom = Math.min(height, y + down)
    for (let x = 0; x < width; x += across) {
      const right = Math.min(width, x + across), count = (right - x)*(bottom - y)
      const factor = Math.floor(2**24/count), half = count >> 1
      for (let channel = 0; channel < channels; channel++) {
        let sum = half
        for (let row = y; row < bottom; row++) {
          for (let column = x; column < right; column++) sum += data[(row*width + column)*channels + channel]
        }
        small.data[to++] = Math.floor(sum*factor/2**24)
      }
    }
  }
  return small
}

/**
 * Resample along one axis with weights.
 * @param {Pixels} image
 * @param {boolean} vertical the axis
 * @param {Array<{start: number, weights: ArrayLike<number>}>} taps of each new column or row
 * @param {(sum: number) => number} toByte
 * @param {Function} Output type of the result's data
 */
function resample(image, vertical, taps, toByte, Output = Uint8Array) {
  const {width, height, channels, data} = image
  const size = vertical ? [width, taps.length] : [taps.length, height]
  const result = {width: size[0], height: size[1], channels, data: new Output(size[0]*size[1]*channels)}
  const step = vertical ? width*channels : channels
  for (let y = 0, to = 0; y < size[1]; y++) {
    for (let x = 0; x < size[0]; x++) {
      const {start, weights} = taps[vertical ? y : x]
      const first = (vertical ? start*width + x : y*width + start)*channels
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0
        for (let i = 0, at = first + channel; i < weights.length; i++, at += step) sum += data[at]*weights[i]
        result.data[to++] = toByte(sum)
      }
    }
  }
  return result
}

/** Weights of Pillow's box filter, scaled by 2²²; `extent` is the part of `length` pixels that is used. */
function boxTaps(length, extent, count) {
  const scale = extent/count, wide = Math.max(scale, 1)
  return Array.from({length: count}, (_, place) => {
    const centre = (place + .5)*scale
    const start = Math.max(0, Math.trunc(centre - wide/2 + .5))
    const end = Math.min(length, Math.trunc(centre + wide/2 + .5))
    const inside = Array.from({length: end - start}, (_, i) => {
      const x = (start + i - centre + .5)/wide
      return x > -.5 && x <= .5 ? 1 : 0
    })
    const total = inside.reduce((sum, weight) => sum + weight, 0)
    return {start, weights: inside.map(weight => Math.trunc(.5 + weight/total*2**22))}
  })
}

/**
 * Reduce as Pillow's `resize(size, BOX, reducing_gap=2)`.
 * @param {Pixels} image
 * @returns {Pixels}
 */
export function resizeBox(image, width, height) {
  const across = Math.trunc(image.width/width/2) || 1, down = Math.trunc(image.height/height/2) || 1
  const part = reduce(image, across, down), toByte = sum => (sum + 2**21) >> 22
  const columns = boxTaps(part.width, image.width/across, width)
  const rows = boxTaps(part.height, image.height/down, height)
  return resample(resample(part, false, columns, toByte), true, rows, toByte)
}

/** Weights of OpenCV's INTER_AREA: how much of each pixel a new one covers. */
function areaTaps(length, count) {
  const scale = length/count
  return Array.from({length: count}, (_, place) => {
    const from = place*scale, to = Math.min(length, from + scale)
    let start = Math.floor(from), end = Math.ceil(to)
    if (start + 1 - from <= 1e-3) start++
    if (to - (end - 1) <= 1e-3) end--
    const weights = []
    for (let i = start; i < end; i++) weights.push((Math.min(to, i + 1) - Math.max(from, i))/(to - from))
    return {start, weights}
  })
}

/** Weights of OpenCV's INTER_LINEAR. */
function linearTaps(length, count) {
  return Array.from({length: count}, (_, place) => {
    const at = Math.max(0, Math.min(length - 1, (place + .5)*length/count - .5))
    const start = Math.min(Math.floor(at), Math.max(0, length - 2))
    return {start, weights: length === 1 ? [1] : [1 - (at - start), at - start]}
  })
}

/**
 * Resize as OpenCV does: by area if smaller, otherwise by linear interpolation.
 * @param {Pixels} image
 * @returns {Pixels}
 */
export function resize(image, width, height, smaller = true) {
  if (image.width === width && image.height === height) return image
  if (smaller && image.width === 2*width && image.height === 2*height) return reduce(image, 2, 2)
  const taps = smaller ? areaTaps : linearTaps
  const across = resample(image, false, taps(image.width, width), Math.fround, Float32Array)
  return resample(across, true, taps(image.height, height), round)
}

/**
 * A window of a picture, cut at its borders.
 * @param {Pixels} image
 * @returns {Pixels} of at most size × size pixels
 */
export function windowOf(image, left, top, size) {
  const {channels} = image
  const part = blank(Math.min(size, image.width - left), Math.min(size, image.height - top), channels)
  for (let y = 0; y < part.height; y++) {
    const from = ((top + y)*image.width + left)*channels
    part.data.set(image.data.subarray(from, from + part.width*channels), y*part.width*channels)
  }
  return part
}

/**
 * Sample a square by linear interpolation as OpenCV's `warpAffine`, which rounds places to 1/32 pixel.
 * @param {Pixels} image RGB
 * @param {number[][]} matrix (2, 3): column and row of the square → x and y in the picture
 * @param {number} size of the square in pixels
 * @returns {Pixels} RGB; grey (128) outside of the picture
 */
export function warp(image, [[a, b, c], [d, e, f]], size) {
  const {width, height, data} = image, square = blank(size, size, 3)
  const value = (x, y, channel) => x < 0 || y < 0 || x >= width || y >= height ? 128 : data[3*(y*width + x) + channel]
  for (let row = 0, to = 0; row < size; row++) {
    const x0 = round((b*row + c)*1024) + 16, y0 = round((e*row + f)*1024) + 16
    for (let column = 0; column < size; column++) {
      const x32 = (x0 + round(a*column*1024)) >> 5, y32 = (y0 + round(d*column*1024)) >> 5
      const x = x32 >> 5, y = y32 >> 5, right = x32 & 31, below = y32 & 31
      for (let channel = 0; channel < 3; channel++) {
        const upper = value(x, y, channel)*(32 - right) + value(x + 1, y, channel)*right
        const lower = value(x, y + 1, channel)*(32 - right) + value(x + 1, y + 1, channel)*right
        square.data[to++] = (upper*(32 - below) + lower*below + 512) >> 10
      }
    }
  }
  return square
}
