// What files say of segments: where they are, and which pixels they have.

/** The ids of an image with 0 for what is not shown. */
export function shownIds(result, shown) {
  const keep = new Uint8Array(result.highest + 1);
  for (const { id } of shown) keep[id] = 1;
  return result.ids.map((id) => (keep[id] ? id : 0));
}

/** The middle of each segment's pixels, or of each box: id to [x, y]. */
export function middles({ ids, width, highest, found }) {
  if (!ids) {
    return new Map(found.map(({ id, box: [a, b, c, d] }) => [id, [(a + c) / 2, (b + d) / 2]]));
  }
  const [counts, xs, ys] = [0, 1, 2].map(() => new Float64Array(highest + 1));
  ids.forEach((id, at) => {
    counts[id]++;
    xs[id] += at % width;
    ys[id] += Math.floor(at / width);
  });
  return new Map(found.map(({ id }) => [id, [xs, ys].map((sum) => sum[id] / counts[id] + 0.5)]));
}

/** COCO's run-length encoding of each segment: id to {size, counts}. */
export function runLengths({ ids, width, height, found }) {
  const counts = new Map(found.map(({ id }) => [id, []]));
  const ends = new Map(found.map(({ id }) => [id, 0]));
  let [open, start, at] = [0, 0, 0];
  const close = () => {
    counts.get(open)?.push(start - ends.get(open), at - start);
    ends.set(open, at);
    start = at;
  };
  for (let x = 0; x < width; x++) {
    for (let y = 0, from = x; y < height; y++, at++, from += width) {
      if (ids[from] === open) continue;
      close();
      open = ids[from];
    }
  }
  close();
  for (const [id, runs] of counts) if (ends.get(id) < at) runs.push(at - ends.get(id));
  const size = [height, width];
  return new Map([...counts].map(([id, runs]) => [id, { size, counts: packed(runs) }]));
}

/** Runs as text, five bits a letter, from the third on as differences from the last but one. */
function packed(runs) {
  let text = "";
  runs.forEach((run, i) => {
    let rest = i > 2 ? run - runs[i - 2] : run;
    for (let more = true; more; ) {
      let bits = rest & 31;
      rest >>= 5;
      more = bits & 16 ? rest !== -1 : rest !== 0;
      if (more) bits |= 32;
      text += String.fromCharCode(bits + 48);
    }
  });
  return text;
}
