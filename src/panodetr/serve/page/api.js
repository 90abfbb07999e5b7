// Talks to the server: models, predictions and files.

const BUSY = 429;
const MOST_TRIES = 20; // of a server that says it is busy

let key = "";

/** Send an API key with every request from now on. */
export function useKey(given) {
  key = given;
}

/** Why there is no answer, as the server says it; `status` is 0 where nothing came. */
export class ServerError extends Error {
  constructor(title, detail, status) {
    super(detail);
    Object.assign(this, { title, status });
  }
}

/**
 * Let a model find what is in an image.
 * @param {Blob} image any format that the server reads.
 * @param {{model: string, task: string}} request task: panoptic, instances or boxes.
 * @param {(phase: string, fraction: number | null) => void} onProgress
 * @param {AbortSignal} signal
 * @returns the answer's JSON.
 */
export async function predict(image, { model, task }, onProgress, signal) {
  const boxes = task === "boxes";
  const query = new URLSearchParams(boxes ? { model } : { model, task, masks: "runs" });
  const path = `v1/${boxes ? "detect" : "segment"}?${query}`;
  return JSON.parse(await (await ask("POST", path, { body: image, onProgress, signal })).text());
}

/**
 * Let the server draw an image whose format the browser cannot read, with no box on it: detections
 * score less than 1.
 */
export function drawImage(image, model) {
  const path = `v1/detect?${new URLSearchParams({ model, threshold: 1 })}`;
  return ask("POST", path, { body: image, accept: "image/png" });
}

/** Let the server write a file of an entry's segments or boxes that score at least `least`. */
export function write(file, { name, blob, result }, least) {
  const found = { [result.ids ? "segments" : "detections"]: result.shown(least) };
  const body = new FormData();
  body.append("image", blob);
  body.append("shown", new Blob([JSON.stringify({ ...found, runs: result.runs, name })]));
  return ask("POST", `v1/write?${new URLSearchParams({ file, model: result.model })}`, { body });
}

/** Ask the server, again after the time it names while it is busy; gives the answer as a Blob. */
export async function ask(method, path, { onProgress = () => {}, signal, ...options } = {}) {
  for (let tries = 1; ; tries++) {
    signal?.throwIfAborted();
    const { status, body, wait } = await send(method, path, { onProgress, signal, ...options });
    if (status === 200) return body;
    if (status !== BUSY || tries === MOST_TRIES) throw explain(status, await body.text());
    onProgress("The server is busy, waiting", null);
    await new Promise((resolve) => setTimeout(resolve, 1000 * (wait || 1)));
  }
}

/** Send one request with XMLHttpRequest: fetch cannot say how much was sent. */
function send(method, path, { body, accept = "*/*", onProgress, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, path);
    request.responseType = "blob";
    request.setRequestHeader("Accept", accept);
    if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
    const fail = (title, detail) => () => reject(new ServerError(title, detail, 0));
    const hint = "Check that panodetr serve is still running.";
    request.onerror = fail("The server does not answer", hint);
    request.onabort = fail("Stopped", "The image was removed.");
    request.upload.onprogress = ({ loaded, total }) => onProgress("Sending", loaded / total);
    request.upload.onload = () => onProgress("Finding segments", null);
    request.onload = () => {
      const wait = Number(request.getResponseHeader("Retry-After"));
      resolve({ status: request.status, body: request.response, wait });
    };
    signal?.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}

/** Turn an application/problem+json, or whatever else came, into an error. */
function explain(status, text) {
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {} // a proxy in between answers in its own words
  const detail = problem.detail ?? problem.error ?? `The server answered with status ${status}.`;
  return new ServerError(problem.title ?? "No result", detail, status);
}
