// Colours segments and boxes at the resolution of the screen. Nothing is kept at the image's own
// size but its map of ids, so that a slider or the pointer costs one repaint of what is seen.

const WHITE = 0xffffffff;

/**
 * The colours of ids as numbers of four bytes, RGBA from the lowest; 0 is nothing.
 * @param {number} lit the id that stands out, or 0.
 */
export function stylesOf(result, { least, opacity, lit }) {
  const fill = new Uint32Array(result.highest + 1);
  const edge = new Uint32Array(result.highest + 1);
  const faint = result.byId.get(lit)?.is_thing ? 0.6 : 1; // stuff is lit without dimming all
  for (const one of result.shown(least)) {
    const [red, green, blue] = one.color;
    const color = red | (green << 8) | (blue << 16);
    const isLit = one.id === lit;
    const cover = (one.is_thing ? 1 : 0.6) * opacity;
    const strength = isLit ? Math.max(one.is_thing ? 0.7 : 0.4, cover) : cover * faint;
    fill[one.id] = color | (Math.round(255 * strength) << 24);
    const outline = one.is_thing ? 0.95 * faint : strength;
    edge[one.id] = isLit && one.is_thing ? WHITE : color | (Math.round(255 * outline) << 24);
  }
  return { fill, edge };
}

/**
 * Colour the segments that are seen.
 * @param {{ids: Uint32Array, width: number, height: number}} result
 * @param {{x: number, y: number, scale: number}} place of the image's corner, in target pixels.
 * @param {ImageData} target
 * @param {Uint32Array} seen as many numbers as target has pixels; overwritten.
 * @param {number} line width of outlines, in target pixels.
 * @returns {number[]} x, y, width, height of the part of target that was painted.
 */
export function paintSegments({ ids, width, height }, styles, place, target, seen, line) {
  const { fill, edge } = styles;
  const pixels = new Uint32Array(target.data.buffer);
  const wide = target.width;
  const [x0, x1] = extent(place.x, place.scale, width, wide);
  const [y0, y1] = extent(place.y, place.scale, height, target.height);
  const columns = new Int32Array(x1 - x0);
  for (let x = x0; x < x1; x++) columns[x - x0] = source(x, place.x, place.scale, width);
  for (let y = y0; y < y1; y++) {
    const row = source(y, place.y, place.scale, height) * width;
    const to = y * wide + x0;
    for (let i = 0; i < columns.length; i++) seen[to + i] = ids[row + columns[i]];
  }
  for (let y = y0; y < y1; y++) {
    const rise = y - y0 < line ? 0 : line * wide;
    for (let x = x0, at = y * wide + x0; x < x1; x++, at++) {
      const here = seen[at];
      const left = seen[x - x0 < line ? at : at - line];
      const above = seen[at - rise];
      // The most opaque outline wins: opacity is the highest byte. The one that is lit is white.
      if (here === left && here === above) pixels[at] = fill[here];
      else pixels[at] = Math.max(edge[here], edge[left], edge[above]);
    }
  }
  return [x0, y0, x1 - x0, y1 - y0];
}

/** Draw boxes, the one that is lit last. */
export function paintBoxes(context, boxes, { least, opacity, lit }, place, line) {
  const isLit = ({ id }) => id === lit;
  const order = boxes.shown(least).sort((a, b) => isLit(a) - isLit(b) || b.area - a.area);
  for (const { id, box, color } of order) {
    const [x0, y0, x1, y1] = box.map((edge, i) => (i % 2 ? place.y : place.x) + edge * place.scale);
    context.globalAlpha = lit && id !== lit ? 0.4 : 1;
    context.fillStyle = `rgba(${color}, ${id === lit ? 0.35 : opacity * 0.3})`;
    context.fillRect(x0, y0, x1 - x0, y1 - y0);
    context.strokeStyle = id === lit ? "white" : `rgb(${color})`;
    context.lineWidth = id === lit ? 2 * line : line;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  context.globalAlpha = 1;
}

/** The target pixels, from and to, whose middles lie in the image. */
function extent(start, scale, size, limit) {
  const from = Math.max(0, Math.ceil(start - 0.5));
  return [from, Math.max(from, Math.min(limit, Math.ceil(start + size * scale - 0.5)))];
}

/** The image pixel under the middle of a target pixel. */
function source(pixel, start, scale, size) {
  return Math.min(size - 1, Math.floor((pixel + 0.5 - start) / scale));
}
