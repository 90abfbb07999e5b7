// Id maps as PNG files: RGB, id = R + 256 G + 65536 B. A canvas would do for reading, but browsers
// that guard privacy change a few of the pixels that a script reads from one.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

const CHECKSUMS = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

/** Pack bytes as a zlib stream. */
export const deflate = (bytes) => through(bytes, new CompressionStream("deflate"));

/**
 * Read an id map.
 * @param {Uint8Array} bytes an RGB PNG of 8 bits, not interlaced.
 * @returns {Promise<{width: number, height: number, ids: Uint32Array}>} ids row by row.
 */
export async function readIdMap(bytes) {
  const file = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const width = file.getUint32(16);
  const height = file.getUint32(20);
  if (file.getUint32(24) !== 0x08020000 || file.getUint8(28)) throw new Error("not an id map");
  const packed = [];
  for (let at = 8; at < bytes.length; ) {
    const length = file.getUint32(at);
    if (file.getUint32(at + 4) === 0x49444154) packed.push(bytes.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  const rows = await through(new Blob(packed), new DecompressionStream("deflate"));
  const ids = new Uint32Array(width * height);
  const stride = 3 * width;
  let above = new Uint8Array(stride);
  for (let y = 0, to = 0; y < height; y++) {
    const start = y * (stride + 1);
    const row = rows.subarray(start + 1, start + 1 + stride);
    unfilter(rows[start], row, above);
    for (let at = 0; at < stride; at += 3) {
      ids[to++] = row[at] | (row[at + 1] << 8) | (row[at + 2] << 16);
    }
    above = row;
  }
  return { width, height, ids };
}

/** Write an id map, each row as its difference from the row above. */
export async function writeIdMap(ids, width, height) {
  const stride = 3 * width;
  const rows = new Uint8Array((stride + 1) * height);
  for (let y = 0, from = 0, to = 0; y < height; y++) {
    rows[to++] = 2;
    for (let x = 0; x < width; x++, from++) {
      const id = ids[from];
      const above = y ? ids[from - width] : 0;
      rows[to++] = (id & 255) - (above & 255);
      rows[to++] = ((id >> 8) & 255) - ((above >> 8) & 255);
      rows[to++] = ((id >> 16) & 255) - ((above >> 16) & 255);
    }
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint16(8, 0x0802); // 8 bits, RGB
  const parts = [
    chunk("IHDR", new Uint8Array(header.buffer)),
    chunk("IDAT", await deflate(rows)),
    chunk("IEND", new Uint8Array()),
  ];
  return new Blob([new Uint8Array(SIGNATURE), ...parts], { type: "image/png" });
}

async function through(data, stream) {
  const piped = new Blob([data]).stream().pipeThrough(stream);
  return new Uint8Array(await new Response(piped).arrayBuffer());
}

/** Undo a PNG row's filter in place: none, left, up, average or Paeth. */
function unfilter(kind, row, above) {
  if (kind === 2) for (let i = 0; i < row.length; i++) row[i] += above[i];
  if (kind === 0 || kind === 2) return;
  for (let i = 0; i < row.length; i++) {
    const left = i < 3 ? 0 : row[i - 3];
    const up = above[i];
    if (kind === 1) row[i] += left;
    else if (kind === 3) row[i] += (left + up) >> 1;
    else row[i] += paeth(left, up, i < 3 ? 0 : above[i - 3]);
  }
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

function chunk(kind, body) {
  const bytes = new Uint8Array(body.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, body.length);
  for (let i = 0; i < 4; i++) bytes[4 + i] = kind.charCodeAt(i);
  bytes.set(body, 8);
  let sum = 0xffffffff;
  for (let i = 4; i < bytes.length - 4; i++) {
    sum = CHECKSUMS[(sum ^ bytes[i]) & 255] ^ (sum >>> 8);
  }
  view.setUint32(bytes.length - 4, ~sum);
  return bytes;
}
