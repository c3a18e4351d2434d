// Class probabilities of face crops.
import {interpolate, SIZE} from './crop.js'
import {Tensor} from './load.js'

/**
 * Write a view of a crop, and its mirror image behind it, to the input of a network: as `zoom` and `tta_views` in Python.
 * @param {Uint8Array} crop (48, 48)
 * @param {number[]} view scale, pixels to the right, pixels down
 * @param {Float32Array} input (2, 48, 48)
 */
function writeView(crop, [scale, right, down], input) {
  const grey = {width: SIZE, height: SIZE, data: crop}, middle = (SIZE - 1)/2
  const positions = shift => Array.from({length: SIZE}, (_, i) => (i - middle - shift)/scale + middle)
  const rows = positions(down), columns = positions(right)
  for (let y = 0; y < SIZE; y++) {
    for (let x = 0; x < SIZE; x++) {
      const value = interpolate(grey, columns[x], rows[y])
      input[y*SIZE + x] = value
      input[(SIZE + y)*SIZE + SIZE - 1 - x] = value
    }
  }
}

/**
 * Classify a crop: the mean of its views and their mirror images.
 * @param {Object} session an ONNX Runtime session of a network for 48 × 48 pixels
 * @param {Uint8Array} crop (48, 48)
 * @param {number[][]} views see `writeView`
 * @returns {Promise<number[]>} a probability for each class, 0–1
 */
export async function classify(session, crop, views) {
  const count = 2*views.length, pair = 2*SIZE*SIZE, input = new Float32Array(views.length*pair)
  views.forEach((view, i) => writeView(crop, view, input.subarray(i*pair, (i + 1)*pair)))
  const feeds = {[session.inputNames[0]]: new Tensor('float32', input, [count, SIZE, SIZE, 1])}
  const {data} = (await session.run(feeds))[session.outputNames[0]]
  const classes = data.length/count
  return Array.from({length: classes}, (_, i) => {
    let sum = 0
    for (let view = 0; view < count; view++) sum += data[view*classes + i]
    return sum/count
  })
}

/** The class with the highest probability: its index, the probability, and whether it is too low for an answer. */
export function answer(probabilities, minConfidence) {
  const probability = Math.max(...probabilities)
  return {index: probabilities.indexOf(probability), probability, uncertain: probability < minConfidence}
}
