// Class probabilities of face crops.
import {SIZE} from './crop.js'
import {Tensor} from './load.js'

export const VIEWS = 2             // of a crop: itself and its mirror image; their probabilities are averaged
export const MIN_CONFIDENCE = .4   // below this probability the answer is 'uncertain'

/**
 * Classify a crop.
 * @param {Object} session an ONNX Runtime session of a network for 48 × 48 pixels
 * @param {Uint8Array} crop (48, 48)
 * @returns {Promise<number[]>} a probability for each class, 0–1
 */
export async function classify(session, crop) {
  const input = new Float32Array(VIEWS*SIZE*SIZE)
  for (let view = 0, to = 0; view < VIEWS; view++) {
    for (let y = 0; y < SIZE; y++) {
      for (let x = 0; x < SIZE; x++) input[to++] = crop[y*SIZE + (view ? SIZE - 1 - x : x)]
    }
  }
  const feeds = {[session.inputNames[0]]: new Tensor('float32', input, [VIEWS, SIZE, SIZE, 1])}
  const {data} = (await session.run(feeds))[session.outputNames[0]]
  const count = data.length/VIEWS
  return Array.from({length: count}, (_, i) => {
    let sum = 0
    for (let view = 0; view < VIEWS; view++) sum += data[view*count + i]
    return sum/VIEWS
  })
}

/** The class with the highest probability: its index, the probability, and whether it is too low for an answer. */
export function answer(probabilities) {
  const probability = Math.max(...probabilities)
  return {index: probabilities.indexOf(probability), probability, uncertain: probability < MIN_CONFIDENCE}
}
