// What a model found in an image: segments or boxes, and which are shown.

/**
 * One image's answer for one task.
 * `found` has {id, label, category_id, is_thing, score, box, area, color}; `ids` the segment's id
 * at each pixel, row by row, or null where the task is boxes. A box is x0, y0, x1, y1 in pixels.
 */
export class Result {
  constructor({ image: { width, height }, model, segments, runs, detections }) {
    const boxes = detections?.map((one) => {
      const [x0, y0, x1, y1] = one.box;
      return { ...one, is_thing: true, area: Math.round((x1 - x0) * (y1 - y0)) };
    });
    const found = segments ?? boxes;
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
