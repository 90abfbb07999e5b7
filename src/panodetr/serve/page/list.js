// The list of what was found: sorted, filtered, switched on and off.

const ORDERS = {
  score: (a, b) => b.score - a.score || a.id - b.id,
  area: (a, b) => b.area - a.area || a.id - b.id,
  label: (a, b) => a.label.localeCompare(b.label) || a.id - b.id,
  id: (a, b) => a.id - b.id,
};

export const percent = (fraction) => `${Math.round(100 * fraction)} %`;
export const pixels = (area) => `${area.toLocaleString("en")} px`;

export class SegmentList {
  #rows = new Map(); // id to {one, item, box, text}
  #order = [];
  #lit = 0;

  /**
   * @param {HTMLElement} root the list.
   * @param {object} on `light(one)` when a row is pointed at or has the focus, undefined after;
   *   `pick(one)` when it is clicked; `toggle(ids, shown)`.
   */
  constructor(root, on) {
    this.root = root;
    this.on = on;
    const at = (event) => this.#rows.get(Number(event.target.closest("li")?.dataset.id));
    root.addEventListener("pointerover", (event) => on.light(at(event)?.one));
    root.addEventListener("pointerleave", () => on.light(undefined));
    root.addEventListener("focusin", (event) => on.light(at(event)?.one));
    root.addEventListener("focusout", () => on.light(undefined));
    root.addEventListener("change", (event) => on.toggle([at(event).one.id], event.target.checked));
    root.addEventListener("click", (event) => {
      if (event.target.type !== "checkbox" && at(event)) on.pick(at(event).one);
    });
    root.addEventListener("keydown", (event) => this.#key(event, at(event)));
  }

  /** Make the rows of a result. */
  fill(result) {
    this.#rows = new Map((result?.found ?? []).map((one) => [one.id, makeRow(one)]));
    this.#lit = 0;
  }

  /** Sort the rows and leave some out. */
  arrange(order, filter) {
    const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = ({ id, label }) => {
      const text = `${id} ${label}`.toLowerCase();
      return words.every((word) => text.includes(word));
    };
    const found = [...this.#rows.values()].map(({ one }) => one);
    this.#order = found.filter(fits).sort(ORDERS[order]);
    this.root.replaceChildren(...this.#order.map(({ id }) => this.#rows.get(id).item));
    this.#rows.forEach(({ box }) => (box.tabIndex = -1));
    if (this.#order.length) this.#rows.get(this.#order[0].id).box.tabIndex = 0;
    return this.#order.length;
  }

  /** The ids of the rows that are listed. */
  get listed() {
    return this.#order.map(({ id }) => id);
  }

  /** Tick the rows that are shown, and dim those whose score is below `least`. */
  mark(result, least) {
    for (const { one, item, box } of this.#rows.values()) {
      box.checked = !result.hidden.has(one.id);
      item.classList.toggle("below", one.score < least);
    }
  }

  /** Light a row up, if it is listed, and scroll the list to it; the page stays where it is. */
  light(id, { scroll }) {
    this.#rows.get(this.#lit)?.item.classList.remove("lit");
    this.#lit = id;
    const item = this.#rows.get(id)?.item;
    item?.classList.add("lit");
    if (!scroll || !item?.isConnected) return;
    const { scrollTop, clientHeight } = this.root;
    const lowest = item.offsetTop + item.offsetHeight - clientHeight;
    this.root.scrollTop = Math.min(item.offsetTop, Math.max(scrollTop, lowest));
  }

  #key(event, row) {
    if (!row) return;
    const at = this.#order.indexOf(row.one);
    const last = this.#order.length - 1;
    const moves = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: last };
    if (event.key === "Enter") this.on.pick(row.one);
    else if (event.key in moves) {
      const next = this.#order[Math.max(0, Math.min(last, moves[event.key]))];
      row.box.tabIndex = -1;
      this.#rows.get(next.id).box.tabIndex = 0;
      this.#rows.get(next.id).box.focus();
    } else return;
    event.preventDefault();
  }
}

function makeRow(one) {
  const item = document.createElement("li");
  item.dataset.id = one.id;
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
  box.style.accentColor = box.style.color = `rgb(${one.color})`;
  const [score, area] = [percent(one.score), pixels(one.area)];
  box.setAttribute("aria-label", `${one.id} ${one.label}, ${score}, ${area}`);
  const parts = { number: one.id, name: one.label, score, area };
  const texts = Object.entries(parts).map(([className, textContent]) =>
    Object.assign(document.createElement("span"), { className, textContent, ariaHidden: "true" }),
  );
  item.append(box, ...texts);
  return { one, item, box };
}
