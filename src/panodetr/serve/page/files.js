// Files of what is shown, made in the browser as panodetr.results writes them. Each maker takes
// entries {name, copies, result} and the look {least, opacity}, and gives a Blob.

import { middles, runLengths, shownIds } from "./measure.js";
import { trace } from "./outlines.js";
import { paintBoxes, paintSegments, stylesOf } from "./paint.js";
import { deflate, writeIdMap } from "./png.js";

/** The kinds of file. `ids`: it needs segments, not boxes. `many`: it can hold several images. */
export const KINDS = [
  { key: "overlay", title: "Overlay", suffix: "_overlay.png", make: overlay },
  { key: "idmap", title: "Id map", suffix: "_panoptic.png", make: idMap, ids: true },
  { key: "tiff", title: "Label TIFF", suffix: "_labels.tif", make: labelTiff, ids: true },
  { key: "coco", title: "COCO", suffix: "_coco.json", make: coco, many: true },
  { key: "geojson", title: "GeoJSON", suffix: ".geojson", make: geoJson },
  { key: "csv", title: "CSV", suffix: "_objects.csv", make: csv, many: true },
];

/** Let the browser save a file. */
export function save(blob, name) {
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(blob),
    download: name,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function overlay([{ copies, result }], { least, opacity }) {
  const { width, height } = result;
  const [image, over] = [0, 1].map(() => new OffscreenCanvas(width, height).getContext("2d"));
  if (copies.length) image.drawImage(copies[0], 0, 0, width, height);
  const place = { x: 0, y: 0, scale: 1 };
  const look = { least, opacity, lit: 0 };
  const line = Math.max(1, Math.round(Math.max(width, height) / 800));
  if (result.ids) {
    const target = new ImageData(width, height);
    const seen = new Uint32Array(width * height);
    paintSegments(result, stylesOf(result, look), place, target, seen, line);
    over.putImageData(target, 0, 0);
  } else paintBoxes(over, result, look, place, 1.5 * line);
  image.drawImage(over.canvas, 0, 0);
  return image.canvas.convertToBlob({ type: "image/png" });
}

function idMap([{ result }], { least }) {
  return writeIdMap(shownIds(result, result.shown(least)), result.width, result.height);
}

/** A TIFF of one number a pixel, of 16 bits where they suffice, packed by zlib. */
async function labelTiff([{ result }], { least }) {
  const ids = shownIds(result, result.shown(least));
  const labels = result.highest < 65536 ? Uint16Array.from(ids) : ids;
  const packed = await deflate(labels);
  const bits = 8 * labels.BYTES_PER_ELEMENT;
  const { width, height } = result;
  const tags = [
    [256, width], [257, height], [258, bits], [259, 8], [262, 1], [273, 0], [277, 1], [278, height],
    [279, packed.length], [339, 1],
  ];
  const head = new DataView(new ArrayBuffer(8 + 2 + 12 * tags.length + 4));
  head.setUint32(0, 0x49492a00); // little-endian
  head.setUint32(4, 8, true);
  head.setUint16(8, tags.length, true);
  tags.forEach(([tag, value], i) => {
    head.setUint16(10 + 12 * i, tag, true);
    head.setUint16(12 + 12 * i, 4, true); // 32 bits
    head.setUint32(14 + 12 * i, 1, true);
    head.setUint32(18 + 12 * i, tag === 273 ? head.byteLength : value, true);
  });
  return new Blob([head, packed], { type: "image/tiff" });
}

/** COCO instances: things with boxes, scores and, where there are any, masks as run lengths. */
function coco(entries, { least }) {
  const images = [];
  const annotations = [];
  for (const { name, result } of entries) {
    const { width, height } = result;
    const image_id = images.length + 1;
    images.push({ id: image_id, file_name: name, height, width });
    const masks = result.ids ? runLengths(result) : new Map();
    for (const one of result.shown(least).filter(({ is_thing }) => is_thing)) {
      const { category_id, score, area } = one;
      const [x0, y0, x1, y1] = one.box;
      const bbox = [x0, y0, x1 - x0, y1 - y0];
      const found = { id: annotations.length + 1, image_id, category_id, bbox, area, iscrowd: 0 };
      annotations.push({ ...found, score, segmentation: masks.get(one.id) });
    }
  }
  const things = entries[0].result.categories.filter(({ isthing }) => isthing);
  const categories = things.map(({ id, name }) => ({ id, name }));
  return json({ images, annotations, categories }, "application/json");
}

/** Polygons in pixels from the upper left corner, with the words that QuPath reads. */
function geoJson([{ result }], { least }) {
  const colors = new Map(result.categories.map(({ id, color }) => [id, color]));
  const places = middles(result);
  const features = result.shown(least).map((one) => {
    const [x0, y0, x1, y1] = one.box.map(Math.round);
    const corners = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]];
    const parts = result.ids ? trace(result, one) : [[corners]];
    const geometry =
      parts.length === 1
        ? { type: "Polygon", coordinates: parts[0] }
        : { type: "MultiPolygon", coordinates: parts };
    const properties = {
      objectType: one.is_thing ? "detection" : "annotation",
      name: `${one.id}`,
      classification: { name: one.label, color: colors.get(one.category_id) },
      measurements: measurements(one, places),
    };
    return { type: "Feature", geometry, properties };
  });
  return json({ type: "FeatureCollection", features }, "application/geo+json");
}

/** One row a segment: areas in pixels, places in pixels from the upper left corner. */
function csv(entries, { least }) {
  const rows = entries.flatMap(({ name, result }) => {
    const places = middles(result);
    return result.shown(least).map((one) => {
      const { id, label } = one;
      return { image: name, id, class: label, ...measurements(one, places) };
    });
  });
  const lines = rows.map((row) => Object.values(row).map(quoted).join(","));
  const head = Object.keys(rows[0] ?? {}).join(",");
  return new Blob([[head, ...lines, ""].join("\n")], { type: "text/csv" });
}

function measurements({ id, score, area, box }, places) {
  const [centroid_x, centroid_y] = places.get(id).map((value) => Number(value.toFixed(4)));
  const [box_x0, box_y0, box_x1, box_y1] = box;
  return { score, area, centroid_x, centroid_y, box_x0, box_y0, box_x1, box_y1 };
}

const json = (value, type) => new Blob([JSON.stringify(value)], { type });

function quoted(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
