// The images of this page, and the queue in which a model looks at them.

import { drawImage, predict } from "./api.js";
import { decode } from "./picture.js";
import { Result } from "./result.js";

/** One image: its pixels once they are here, and a result or a problem for each model and task. */
class Entry {
  blob = null;
  copies = [];
  results = new Map();
  problems = new Map();
  progress = null; // {phase, fraction} while a model looks at it
  stop = new AbortController();

  constructor(name, load) {
    Object.assign(this, { name, load });
  }

  /** Fetch and decode the image. */
  async open() {
    this.blob ??= await this.load();
    if (!this.copies.length) this.copies = await decode(this.blob);
  }
}

export class Entries {
  all = [];
  #request = null; // {model, task}
  #first = null;
  #busy = false;

  /** @param {(entry: Entry) => void} onChange after each step of an image. */
  constructor(onChange) {
    this.onChange = onChange;
  }

  /** Take an image in; `load` gives its Blob. */
  add(name, load) {
    const entry = new Entry(name, load);
    this.all.push(entry);
    this.#run();
    return entry;
  }

  remove(entry) {
    entry.stop.abort();
    for (const copy of entry.copies) copy.close(); // large, and freed late otherwise
    this.all = this.all.filter((other) => other !== entry);
  }

  /** Ask for results of this kind from now on, for one image before the others. */
  ask(request, first) {
    this.#request = request;
    this.#first = first;
    this.#run();
  }

  retry(entry, key) {
    entry.problems.delete(key);
    this.#run();
  }

  async #run() {
    if (this.#busy || !this.#request) return;
    const request = this.#request;
    const key = keyOf(request);
    const isOpen = ({ results, problems }) => !results.has(key) && !problems.has(key);
    const open = this.all.filter(isOpen);
    const entry = open.includes(this.#first) ? this.#first : open[0];
    if (!entry) return;
    this.#busy = true;
    const report = (phase, fraction) => {
      entry.progress = { phase, fraction };
      this.onChange(entry);
    };
    try {
      report("Reading", null);
      await entry.open();
      report("Sending", 0);
      const answer = await predict(entry.blob, request, report, entry.stop.signal);
      if (!entry.copies.length) {
        entry.copies = await decode(await drawImage(entry.blob, request.model));
      }
      entry.results.set(key, new Result(answer));
    } catch (error) {
      entry.problems.set(key, error);
    }
    entry.progress = null;
    this.#busy = false;
    this.onChange(entry);
    this.#run();
  }
}

/** What results and problems are kept by. */
export const keyOf = ({ model, task }) => `${task} ${model}`;
