// What a model found in an image: segments or boxes, their colours, and which are shown.

const GOLDEN_ANGLE = 0.381966; // of a turn, as in the overlays that Python draws

/**
 * One image's answer for one task.
 * `found` has {id, label, category_id, is_thing, score, box, area, color}; `ids` the segment's id
 * at each pixel, row by row, or null where the task is boxes. A box is x0, y0, x1, y1 in pixels.
 */
export class Result {
  constructor({ image: { width, height }, model, segments, runs, detections }, categories) {
    const boxes = detections?.map((one) => {
      const [x0, y0, x1, y1] = one.box;
      return { ...one, is_thing: true, area: Math.round((x1 - x0) * (y1 - y0)) };
    });
    const found = colored(segments ?? boxes, categories);
    const ids = runs ? idsOf(runs, width * height) : null;
    Object.assign(this, { width, height, model, found, ids, runs });
    this.hidden = new Set(); // ids that the list has switched off
    this.byId = new Map(found.map((one) => [one.id, one]));
    this.highest = found.reduce((most, { id }) => Math.max(most, id), 0);
  }

  isShown(one, least) {
    return one.score >= least && !this.hidden.has(one.id);
  }

  /** What is shown when scores are at least `least`, 0 to 1. */
  shown(least) {
    return this.found.filter((one) => this.isShown(one, least));
  }

  /** The one at a place of the image in pixels, if it is shown; of boxes the smallest. */
  at(x, y, least) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return undefined;
    if (this.ids) {
      const one = this.byId.get(this.ids[Math.floor(y) * this.width + Math.floor(x)]);
      return one && this.isShown(one, least) ? one : undefined;
    }
    const hit = ({ box: [x0, y0, x1, y1] }) => x >= x0 && x < x1 && y >= y0 && y < y1;
    return this.shown(least)
      .filter(hit)
      .sort((a, b) => a.area - b.area)[0];
  }
}

function idsOf({ ids, lengths }, pixels) {
  const all = new Uint32Array(pixels);
  let at = 0;
  ids.forEach((id, i) => all.fill(id, at, (at += lengths[i])));
  return all;
}

/** Give things of a category hues of their own, and stuff its category's colour. */
function colored(found, categories) {
  const base = new Map(categories.map(({ id, color }) => [id, color]));
  const counts = new Map();
  return found.map((one) => {
    const color = base.get(one.category_id) ?? [128, 128, 128];
    if (!one.is_thing) return { ...one, color };
    const turns = counts.get(one.category_id) ?? 0;
    counts.set(one.category_id, turns + 1);
    return { ...one, color: turned(color, turns) };
  });
}

/** Turn a colour's hue, and make it vivid. */
function turned(color, turns) {
  const high = Math.max(...color);
  const range = high - Math.min(...color);
  const [red, green, blue] = color;
  let hue = 0;
  if (range && high === red) hue = (green - blue) / range;
  else if (range && high === green) hue = 2 + (blue - red) / range;
  else if (range) hue = 4 + (red - green) / range;
  hue = (hue + 6 + 6 * turns * GOLDEN_ANGLE) % 6;
  const saturation = Math.max(high && range / high, 0.65);
  const value = Math.max(high / 255, 0.95);
  return [5, 3, 1].map((sector) => {
    const place = (sector + hue) % 6;
    const part = Math.max(0, Math.min(1, place, 4 - place));
    return Math.round(255 * value * (1 - saturation * part));
  });
}
