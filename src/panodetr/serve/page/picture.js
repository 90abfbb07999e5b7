// The image's own pixels, as the browser can read them.

const SMALLEST = 512; // pixels of the longer side, below which no smaller copy is made

/**
 * Decode an image, and halve it again and again: far out, the screen is painted from a small copy.
 * @returns {Promise<ImageBitmap[]>} largest first; empty where the browser cannot read the format.
 */
export async function decode(blob) {
  const copies = [];
  try {
    copies.push(await createImageBitmap(blob));
  } catch {
    return copies; // the server reads more formats, TIFF for one
  }
  for (;;) {
    const { width, height } = copies.at(-1);
    if (Math.max(width, height) < 2 * SMALLEST) return copies;
    const size = { resizeWidth: Math.ceil(width / 2), resizeHeight: Math.ceil(height / 2) };
    copies.push(await createImageBitmap(copies.at(-1), { ...size, resizeQuality: "medium" }));
  }
}

/** The smallest copy that has a pixel for each of so many on the screen. */
export const copyFor = (copies, width) =>
  copies.findLast((copy) => copy.width >= width) ?? copies[0];

/** Draw the middle of an image into a square canvas. */
export function drawThumbnail(canvas, copies) {
  const copy = copies.at(-1);
  if (!copy) return;
  const side = Math.min(copy.width, copy.height);
  const [x, y] = [(copy.width - side) / 2, (copy.height - side) / 2];
  canvas.getContext("2d").drawImage(copy, x, y, side, side, 0, 0, canvas.width, canvas.height);
}
