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
  const rings = [];
  for (let y = y0; y < y1; y++) {
    for (let x = x0; x < x1; x++) {
      if (!inside(x, y) || inside(x, y - 1) || done.has(y * width + x)) continue;
      rings.push(...follow(inside, x, y, (px, py) => done.add(py * width + px)));
    }
  }
  const parts = rings.filter((ring) => area(ring) > 0).map((ring) => [ring]);
  for (const hole of rings.filter((ring) => area(ring) < 0)) {
    const around = parts.filter(([ring]) => contains(ring, besides(hole)));
    around.sort((a, b) => area(a[0]) - area(b[0]))[0].push(hole);
  }
  return parts;
}

/**
 * Walk around with the segment on the right, from the upper left corner of a pixel, back to there.
 * Where the way comes to a corner again, what lies between becomes a ring of its own.
 */
function follow(inside, x, y, pass) {
  const rings = [];
  const way = [[x, y]];
  const places = new Map([[`${x} ${y}`, 0]]); // in `way`
  for (let direction = 0; way.length; ) {
    if (direction === 0) pass(x, y);
    x += STEPS[direction][0];
    y += STEPS[direction][1];
    const [left, right] = [AHEAD[direction], AHEAD[(direction + 1) % 4]];
    const turn = !inside(x + right[0], y + right[1]) ? 1 : inside(x + left[0], y + left[1]) ? 3 : 0;
    direction = (direction + turn) % 4;
    if (!turn) continue;
    const before = places.get(`${x} ${y}`);
    if (before !== undefined) {
      const ring = way.splice(before);
      for (const [cornerX, cornerY] of ring) places.delete(`${cornerX} ${cornerY}`);
      rings.push([...ring, ring[0]]);
      if (before === 0) break;
    }
    places.set(`${x} ${y}`, way.length);
    way.push([x, y]);
  }
  return rings;
}

/** A ring's area, negative for holes. */
function area(ring) {
  let sum = 0;
  for (let i = 1; i < ring.length; i++) {
    sum += ring[i - 1][0] * ring[i][1] - ring[i][0] * ring[i - 1][1];
  }
  return sum / 2;
}

/** The middle of a pixel of the segment beside a ring's first edge. */
function besides([[x, y], [nextX, nextY]]) {
  const [right, down] = [Math.sign(nextX - x), Math.sign(nextY - y)];
  return [x + (right - down) / 2, y + (down + right) / 2];
}

/** Whether a ring goes around the middle of a pixel. */
function contains(ring, [x, y]) {
  let crossings = 0;
  for (let i = 1; i < ring.length; i++) {
    const [[ax, ay], [bx, by]] = [ring[i - 1], ring[i]];
    if (ax === bx && ax > x && Math.min(ay, by) < y && y < Math.max(ay, by)) crossings++;
  }
  return crossings % 2 === 1;
}
