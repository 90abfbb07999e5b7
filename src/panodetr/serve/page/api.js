// Talks to the server: models, samples and predictions.

const BUSY = 429;
const NO_KEY = 401;
const MOST_TRIES = 20; // of a server that says it is busy

const headers = { Accept: "application/json" };

/** Send an API key with every request from now on. */
export function useKey(key) {
  headers.Authorization = `Bearer ${key}`;
}

/** Why there is no answer, as the server says it; `status` is 0 where nothing came. */
export class ServerError extends Error {
  constructor(title, detail, status, retryAfter = 0) {
    super(detail);
    Object.assign(this, { title, status, retryAfter });
  }

  get needsKey() {
    return this.status === NO_KEY;
  }
}

const unreachable = () =>
  new ServerError("The server does not answer", "Check that panodetr serve is still running.", 0);

/** Fetch a path of the server, as a Response. */
export async function get(path, options = {}) {
  const all = { ...options, headers: { ...headers, ...options.headers } };
  const response = await fetch(path, all).catch(() => {
    throw unreachable();
  });
  if (!response.ok) throw explain(response.status, await response.text());
  return response;
}

/**
 * Let a model find what is in an image.
 * @param {Blob} image any format that the server reads.
 * @param {{model: string, task: string}} request task: panoptic, instances or boxes.
 * @param {(phase: string, fraction: number | null) => void} onProgress
 * @param {AbortSignal} signal
 * @returns the answer's JSON. While the server is busy, it is asked again after the time it names.
 */
export async function predict(image, { model, task }, onProgress, signal) {
  const query = new URLSearchParams({ model });
  if (task !== "boxes") query.set("task", task);
  const path = `v1/${task === "boxes" ? "detect" : "segment"}?${query}`;
  for (let tries = 1; ; tries++) {
    signal.throwIfAborted();
    try {
      return await post(path, image, onProgress, signal);
    } catch (error) {
      if (error.status !== BUSY || tries === MOST_TRIES) throw error;
      onProgress("The server is busy, waiting", null);
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter || 1)));
    }
  }
}

/**
 * Let the server draw an image whose format the browser cannot read, with no box on it: detections
 * score less than 1.
 */
export async function drawImage(image, model) {
  const path = `v1/detect?${new URLSearchParams({ model, threshold: 1 })}`;
  const options = { method: "POST", body: image, headers: { Accept: "image/png" } };
  return (await get(path, options)).blob();
}

/** Post with XMLHttpRequest: fetch cannot say how much was sent. */
function post(path, body, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => onProgress("Sending", loaded / total);
    request.upload.onload = () => onProgress("Finding segments", null);
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(new ServerError("Stopped", "The image was removed.", 0));
    request.onload = () => {
      const { status, responseText } = request;
      const wait = Number(request.getResponseHeader("Retry-After"));
      if (status === 200) resolve(JSON.parse(responseText));
      else reject(explain(status, responseText, wait));
    };
    signal.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}

/** Turn an application/problem+json, or whatever else came, into an error. */
function explain(status, text, retryAfter) {
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {} // a proxy in between answers in its own words
  const detail = problem.detail ?? problem.error ?? `The server answered with status ${status}.`;
  return new ServerError(problem.title ?? "No result", detail, status, retryAfter);
}
