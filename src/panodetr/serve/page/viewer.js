// The image with what was found in it: zoom, pan, and what lies under the pointer.

import { paintBoxes, paintSegments, stylesOf } from "./paint.js";
import { copyFor } from "./picture.js";

const MOST_ZOOM = 40; // screen pixels an image pixel
const STEP = 1.4; // of the zoom buttons and keys
const STEADY = 4; // pixels that a pointer may move and still have tapped

export class Viewer {
  #base;
  #over;
  #target; // ImageData of the overlay's size, painted again and again
  #seen; // the ids on the screen
  #content = null; // {copies, result, width, height}
  #place = { x: 0, y: 0, scale: 1 }; // of the image's corner, in screen pixels
  #style = { least: 0, opacity: 0.4, lit: 0 };
  #fitted = true;
  #pointers = new Map();
  #travel = 0;
  #stale = new Set();

  /**
   * @param {HTMLElement} root holds the two canvases.
   * @param {object} on `point(one, event)` when the pointer is over something or nothing,
   *   `pick(one)` on a tap, `zoom(scale)` after each change of the magnification.
   */
  constructor(root, on) {
    this.root = root;
    this.on = on;
    [this.#base, this.#over] = [...root.querySelectorAll("canvas")].map((c) => c.getContext("2d"));
    new ResizeObserver(() => this.#resize()).observe(root);
    root.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    root.addEventListener("pointerdown", (event) => this.#press(event));
    root.addEventListener("pointermove", (event) => this.#move(event));
    root.addEventListener("pointerup", (event) => this.#release(event));
    root.addEventListener("pointercancel", (event) => this.#pointers.delete(event.pointerId));
    root.addEventListener("pointerleave", (event) => this.on.point(undefined, event));
    root.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Show an image, a result, or both; another image is fitted into the view. */
  show(copies, result) {
    const size = result ?? copies[0];
    const same = this.#content?.copies === copies && this.#content.width === size?.width;
    this.#content = size && { copies, result, width: size.width, height: size.height };
    if (!same) this.fit();
    this.#paint("base", "over");
  }

  /** Change what is shown, how opaque it is, and what is lit. */
  restyle(style) {
    this.#style = style;
    this.#paint("over");
  }

  fit() {
    if (!this.#content) return;
    const { width, height } = this.#base.canvas;
    const scale = Math.min(width / this.#content.width, height / this.#content.height) * 0.94;
    this.#moveTo({ scale, x: 0, y: 0 });
    this.#fitted = true;
  }

  /** Zoom in by one step, or out. */
  zoom(inwards) {
    const { width, height } = this.#base.canvas;
    this.#zoomAbout({ x: width / 2, y: height / 2 }, inwards ? STEP : 1 / STEP);
  }

  /** Bring something into the middle, large enough to be looked at. */
  reveal({ box: [x0, y0, x1, y1] }) {
    const { width, height } = this.#base.canvas;
    const close = 0.4 * Math.min(width / (x1 - x0), height / (y1 - y0));
    const scale = Math.min(Math.max(this.#place.scale, close / 2), close);
    this.#moveTo({
      scale,
      x: width / 2 - ((x0 + x1) / 2) * scale,
      y: height / 2 - ((y0 + y1) / 2) * scale,
    });
  }

  #resize() {
    const ratio = devicePixelRatio;
    const width = Math.max(1, Math.round(this.root.clientWidth * ratio));
    const height = Math.max(1, Math.round(this.root.clientHeight * ratio));
    for (const { canvas } of [this.#base, this.#over]) Object.assign(canvas, { width, height });
    this.#target = new ImageData(width, height);
    this.#seen = new Uint32Array(width * height);
    if (this.#fitted) this.fit();
    this.#paint("base", "over");
  }

  #wheel(event) {
    event.preventDefault();
    const turn = event.deltaY * (event.deltaMode ? 18 : 1) * (event.ctrlKey ? 6 : 1);
    const [x, y] = this.#screen(event);
    this.#zoomAbout({ x, y }, Math.exp(-Math.max(-300, Math.min(300, turn)) / 500));
  }

  #press(event) {
    if (event.button) return;
    this.root.setPointerCapture(event.pointerId);
    if (!this.#pointers.size) this.#travel = 0;
    this.#pointers.set(event.pointerId, this.#screen(event));
  }

  #move(event) {
    const point = this.#screen(event);
    if (!this.#pointers.has(event.pointerId)) return this.on.point(this.#under(point), event);
    const before = this.#grip();
    this.#pointers.set(event.pointerId, point);
    const after = this.#grip();
    this.#travel += Math.hypot(after.x - before.x, after.y - before.y);
    if (this.#travel <= STEADY * devicePixelRatio && this.#pointers.size === 1) return;
    this.#zoomAbout(after, after.spread / before.spread, before);
  }

  #release(event) {
    if (!this.#pointers.delete(event.pointerId) || this.#pointers.size) return;
    if (this.#travel > STEADY * devicePixelRatio) return;
    this.on.pick(this.#under(this.#screen(event)), event);
  }

  #key(event) {
    const step = 60 * devicePixelRatio;
    const shifts = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in shifts) {
      const [right, down] = shifts[event.key];
      const { x, y, scale } = this.#place;
      this.#moveTo({ scale, x: x + right * step, y: y + down * step });
    } else if (event.key === "0") this.fit();
    else if ("+=".includes(event.key)) this.zoom(true);
    else if (event.key === "-") this.zoom(false);
    else if (event.key === "Escape") this.on.pick(undefined, event);
    else return;
    event.preventDefault();
  }

  /** A pointer's place in screen pixels. */
  #screen(event) {
    const { left, top } = this.root.getBoundingClientRect();
    return [(event.clientX - left) * devicePixelRatio, (event.clientY - top) * devicePixelRatio];
  }

  #under([x, y]) {
    const { x: left, y: top, scale } = this.#place;
    const { least } = this.#style;
    return this.#content?.result?.at((x - left) / scale, (y - top) / scale, least);
  }

  /** The middle of the pointers that are down, and how far the first two lie apart. */
  #grip() {
    const points = [...this.#pointers.values()];
    const [first, second] = points;
    const mean = (axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length;
    const spread = second ? Math.hypot(first[0] - second[0], first[1] - second[1]) : 1;
    return { x: mean(0), y: mean(1), spread: Math.max(1, spread) };
  }

  /** Zoom about a point, which lay elsewhere `before` where fingers move, within bounds. */
  #zoomAbout(point, factor, before = point) {
    const { x, y, scale } = this.#place;
    const least = 32 / Math.max(this.#content?.width ?? 1, this.#content?.height ?? 1);
    const next = Math.min(MOST_ZOOM, Math.max(least, scale * factor));
    this.#moveTo({
      scale: next,
      x: point.x - ((before.x - x) * next) / scale,
      y: point.y - ((before.y - y) * next) / scale,
    });
  }

  /** Move, so that the image covers the middle of the view; a small one is centred. */
  #moveTo({ x, y, scale }) {
    if (!this.#content) return;
    const { width, height } = this.#base.canvas;
    const inside = (start, size, room) =>
      size <= room ? (room - size) / 2 : Math.min(room / 2, Math.max(room / 2 - size, start));
    this.#place = {
      scale,
      x: inside(x, this.#content.width * scale, width),
      y: inside(y, this.#content.height * scale, height),
    };
    this.#fitted = false;
    this.on.zoom(scale / devicePixelRatio);
    this.#paint("base", "over");
  }

  /** Paint layers before the next frame, once. */
  #paint(...layers) {
    if (!this.#stale.size) requestAnimationFrame(() => this.#repaint());
    for (const layer of layers) this.#stale.add(layer);
  }

  #repaint() {
    const stale = new Set(this.#stale);
    this.#stale.clear();
    if (stale.has("base")) this.#paintImage();
    if (stale.has("over")) this.#paintResult();
  }

  #paintImage() {
    const context = this.#base;
    context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    if (!this.#content) return;
    const { copies, width, height } = this.#content;
    const { x, y, scale } = this.#place;
    const size = [width * scale, height * scale];
    context.imageSmoothingEnabled = scale < 3;
    if (copies.length) context.drawImage(copyFor(copies, size[0]), x, y, ...size);
    else {
      context.fillStyle = "#777";
      context.fillRect(x, y, ...size);
    }
  }

  #paintResult() {
    const context = this.#over;
    const result = this.#content?.result;
    const line = Math.max(1, Math.round(devicePixelRatio));
    context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    if (!result) return;
    if (!result.ids) return paintBoxes(context, result, this.#style, this.#place, 1.5 * line);
    const styles = stylesOf(result, this.#style);
    const part = paintSegments(result, styles, this.#place, this.#target, this.#seen, line);
    if (part[2] && part[3]) context.putImageData(this.#target, 0, 0, ...part);
  }
}
