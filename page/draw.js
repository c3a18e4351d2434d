// Draw the faces of a picture: a turned square around each, and a label that covers no face and no other label if
// there is room; in a crowd, only a number.

const MAX_SHOWN_SIDE = 1600  // pixels; larger pictures are shown reduced
const GAP = 2                // between a face and its label, CSS pixels
const MAX_COVERED = .1       // share of the area of full labels that may cover something
const FONT_SIZES = [14, 11]  // CSS pixels: of full labels, and of numbers where full labels have no room

/** Corners of a face, turned around its centre, in pixels of the picture. */
function corners([left, top, width, height, , angle]) {
  const a = angle*Math.PI/180, x = left + width/2, y = top + height/2
  return [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([i, j]) => {
    const right = i*width/2, down = j*height/2
    return [x + right*Math.cos(a) - down*Math.sin(a), y + right*Math.sin(a) + down*Math.cos(a)]
  })
}

/** The upright rectangle around points: [left, top, right, bottom]. */
const bounds = points => [...[0, 1].map(i => Math.min(...points.map(point => point[i]))),
                          ...[0, 1].map(i => Math.max(...points.map(point => point[i])))]

const common = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]))
  * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]))

/** Where a label of a face covers least of the faces and labels that are there: above, below, beside, or shifted.
 *  A number is put close to its face only, at worst in the corner of the face's square. */
function placeLabel(face, width, height, gap, taken, size, number) {
  const [left, top, right, bottom] = face, middle = (top + bottom - height)/2
  const xs = [left, right - width, (left + right - width)/2], places = []
  for (const y of [top - height - gap, ...number ? [] : [bottom + gap]]) places.push(...xs.map(x => [x, y]))
  places.push([right + gap, top], [left - width - gap, top], [right + gap, middle], [left - width - gap, middle])
  for (const i of number ? [] : [2, 3]) {
    for (const x of xs) places.push([x, top - i*(height + gap)], [x, bottom + gap + (i - 1)*height])
  }
  let best, least = Infinity
  for (const [x, y] of places) {
    const [labelX, labelY] = [Math.max(0, Math.min(size[0] - width, x)), Math.max(0, Math.min(size[1] - height, y))]
    const label = [labelX, labelY, labelX + width, labelY + height]
    const covered = taken.reduce((sum, other) => sum + common(label, other), 0)
    if (covered < least) [best, least] = [label, covered]
    if (covered === 0) break
  }
  const x = Math.max(0, left), y = Math.max(0, top)
  if (number && least) best = [x, y, x + width, y + height]
  return {label: best, covered: least}
}

/** Places for the labels of all faces, and the share of their area that covers something. */
function placeLabels(pen, texts, number, faces, unit, size) {
  const fontSize = FONT_SIZES[number ? 1 : 0]
  const taken = [...faces], height = 1.4*fontSize*unit
  let covered = 0, area = 0
  pen.font = `600 ${fontSize*unit}px system-ui, sans-serif`
  texts.forEach((text, i) => {
    const width = Math.min(size[0], pen.measureText(text).width + 8*unit)
    const placed = placeLabel(faces[i], width, height, GAP*unit, taken, size, number)
    covered += placed.covered
    area += width*height
    taken.push(placed.label)
  })
  return {labels: taken.slice(faces.length), covered: covered/area}
}

/** The size in which a picture is shown, in pixels. */
function shownSize(width, height) {
  const scale = Math.min(1, MAX_SHOWN_SIDE/Math.max(width, height))
  return [width, height].map(side => Math.max(1, Math.round(side*scale)))
}

/** A copy in the size that is shown, which needs less memory. */
export function reducedCopy(bitmap) {
  const copy = document.createElement('canvas')
  ;[copy.width, copy.height] = shownSize(bitmap.width, bitmap.height)
  copy.getContext('2d').drawImage(bitmap, 0, 0, copy.width, copy.height)
  return copy
}

/**
 * Draw a picture with its faces.
 * @param {HTMLCanvasElement} canvas in the document
 * @param {CanvasImageSource} source the picture or a reduced copy of it
 * @param {number[]} size width and height of the picture in pixels
 * @param {{face: number[], text: string, color: string}[]} marks
 * @returns {number[][]} labels: [left, top, right, bottom] in pixels of the canvas
 */
export function draw(canvas, source, [width, height], marks) {
  const size = shownSize(width, height), scale = size[0]/width
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size
  const pen = canvas.getContext('2d'), unit = canvas.width/(canvas.clientWidth || canvas.width)  // one CSS pixel
  pen.fillStyle = '#fff'
  pen.fillRect(0, 0, ...size)
  pen.drawImage(source, 0, 0, ...size)
  pen.textBaseline = 'middle'
  const outlines = marks.map(({face}) => corners(face).map(([x, y]) => [x*scale, y*scale]))
  marks.forEach(({color}, i) => {
    const square = new Path2D()
    outlines[i].forEach(([x, y], j) => j ? square.lineTo(x, y) : square.moveTo(x, y))
    square.closePath()
    for (const [style, line] of [['#000', 4], [color, 2.5]]) {
      pen.strokeStyle = style
      pen.lineWidth = line*unit
      pen.stroke(square)
    }
  })
  const place = (texts, number) => placeLabels(pen, texts, number, outlines.map(bounds), unit, size)
  let texts = marks.map(({text}, i) => `${i + 1} ${text}`), {labels, covered} = place(texts, false)
  if (covered > MAX_COVERED) {
    texts = marks.map((_, i) => `${i + 1}`)
    labels = place(texts, true).labels
  }
  labels.forEach(([left, top, right, bottom], i) => {
    pen.fillStyle = marks[i].color
    pen.fillRect(left, top, right - left, bottom - top)
    pen.fillStyle = '#000'
    pen.fillText(texts[i], left + 4*unit, (top + bottom)/2 + .5*unit, right - left - 8*unit)
  })
  return labels
}
