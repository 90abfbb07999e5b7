// Outlines of segments as polygons along the edges of pixels, so that their areas are exact.

const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // right, down, left, up
const AHEAD = [[0, -1], [0, 0], [-1, 0], [-1, -1]]; // from a corner to the pixel ahead, on the left

/**
 * Trace one segment. Pixels that touch at a corner only are parts of their own.
 * @param {{ids: Uint32Array, width: number, height: number}} result
 * @param {{id: number, box: number[]}} segment its box is tight.
 * @returns {number[][][][]} GeoJSON's MultiPolygon: parts, each an outer ring and its holes.
 */
export function trace({ ids, width }, { id, box: [x0, y0, x1, y1] }) {
  const inside = (x, y) => x >= x0 && x < x1 && y >= y0 && y < y1 && ids[y * width + x] === id;
  const done = new Set(); // upper edges of pixels that a ring has passed
  const outer = [];
  const holes = [];
  for (let y = y0; y < y1; y++) {
    for (let x = x0; x < x1; x++) {
      if (!inside(x, y) || inside(x, y - 1) || done.has(y * width + x)) continue;
      const ring = follow(inside, x, y, (px, py) => done.add(py * width + px));
      (signedArea(ring) > 0 ? outer : holes).push(ring);
    }
  }
  const parts = outer.map((ring) => [ring]);
  for (const hole of holes) {
    const around = parts.filter(([ring]) => contains(ring, hole[0]));
    around.sort((a, b) => signedArea(a[0]) - signedArea(b[0]));
    around[0].push(hole);
  }
  return parts;
}

/** Walk around with the segment on the right, from the upper left corner of a pixel. */
function follow(inside, x, y, pass) {
  const start = [x, y];
  const ring = [start];
  let way = 0;
  do {
    if (way === 0) pass(x, y);
    x += STEPS[way][0];
    y += STEPS[way][1];
    const left = inside(x + AHEAD[way][0], y + AHEAD[way][1]);
    const other = AHEAD[(way + 1) % 4];
    const right = inside(x + other[0], y + other[1]);
    const turn = !right ? 1 : left ? 3 : 0;
    if (turn) ring.push([x, y]);
    way = (way + turn) % 4;
  } while (x !== start[0] || y !== start[1] || way !== 0);
  ring[ring.length - 1] = start; // the last turn is at the first corner
  return ring;
}

/** A ring's area, negative for holes. */
function signedArea(ring) {
  let sum = 0;
  for (let i = 1; i < ring.length; i++) {
    sum += ring[i - 1][0] * ring[i][1] - ring[i][0] * ring[i - 1][1];
  }
  return sum / 2;
}

/** Whether a ring goes around the pixel to the lower right of a corner. */
function contains(ring, [px, py]) {
  let crossings = 0;
  for (let i = 1; i < ring.length; i++) {
    const [ax, ay] = ring[i - 1];
    const [bx, by] = ring[i];
    if (ax === bx && ax > px && Math.min(ay, by) <= py && py < Math.max(ay, by)) crossings++;
  }
  return crossings % 2 === 1;
}
