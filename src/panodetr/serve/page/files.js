// Files of what is shown. The overlay is painted here; the server writes the others.

import { write } from "./api.js";
import { paintBoxes, paintSegments, stylesOf } from "./paint.js";

/** The kinds of file. `ids`: it needs segments, not boxes. `join`: makes one text of several. */
export const KINDS = [
  { key: "overlay", title: "Overlay", suffix: "_overlay.png" },
  { key: "id_map", title: "Id map", suffix: "_panoptic.png", ids: true },
  { key: "labels", title: "Label TIFF", suffix: "_labels.tif", ids: true },
  { key: "coco", title: "COCO", suffix: "_coco.json", join: joinCoco },
  { key: "geojson", title: "GeoJSON", suffix: ".geojson" },
  { key: "csv", title: "CSV", suffix: "_objects.csv", join: joinCsv },
];

/** Make a file of entries {name, blob, copies, result} and the look {least, opacity}: a Blob. */
export async function makeFile({ key, join }, entries, look) {
  if (key === "overlay") return overlay(entries[0], look);
  const files = [];
  for (const entry of entries) files.push(await write(key, entry, look.least));
  if (files.length === 1) return files[0];
  return new Blob([join(await Promise.all(files.map((file) => file.text())))]);
}

/** Let the browser save a file. */
export function save(blob, name) {
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(blob),
    download: name,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function overlay({ copies, result }, { least, opacity }) {
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

function joinCoco(texts) {
  const [images, annotations] = [[], []];
  let categories;
  for (const one of texts.map((text) => JSON.parse(text))) {
    const image_id = images.length + 1;
    images.push({ ...one.images[0], id: image_id });
    for (const found of one.annotations) {
      annotations.push({ ...found, id: annotations.length + 1, image_id });
    }
    ({ categories } = one);
  }
  return JSON.stringify({ images, annotations, categories });
}

/** Keep the first table's head alone; a table without rows has none. */
function joinCsv(texts) {
  const tables = texts.filter(Boolean);
  return tables.map((text, i) => (i ? text.slice(text.indexOf("\n") + 1) : text)).join("");
}
