// Client of the HTTP API.

let token = "";

export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export function setToken(value) {
  token = value;
}

export async function listModels() {
  return (await send("models", {})).json();
}

/** Detects or segments: `{entries, timing}`, timing in milliseconds by stage. */
export async function predict(model, image, threshold, signal) {
  const started = performance.now();
  const response = await post(model, "", image, threshold, signal);
  const entries = await response.json();
  const timing = readTiming(response.headers.get("Server-Timing") ?? "");
  return { entries, timing: { ...timing, "round trip": performance.now() - started } };
}

/** Returns attention maps: `{width, height, queries}`. */
export async function attention(model, image, threshold, signal) {
  return (await post(model, "/attention", image, threshold, signal)).json();
}

function post(model, suffix, image, threshold, signal) {
  const path = model.split("/").map(encodeURIComponent).join("/");
  const headers = { "Content-Type": image.type || "application/octet-stream" };
  const query = `threshold=${threshold}&details=true`;
  return send(`models/${path}${suffix}?${query}`, { method: "POST", body: image, headers, signal });
}

async function send(path, options) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The service cannot be reached. Is it running?");
  }
  if (!response.ok) {
    const content = await response.json().catch(() => ({}));
    throw new ApiError(content.error ?? `The service responded with status ${response.status}.`, response.status);
  }
  return response;
}

function readTiming(header) {
  const stages = {};
  for (const [, name, milliseconds] of header.matchAll(/([\w-]+);dur=([\d.]+)/g)) stages[name] = Number(milliseconds);
  return stages;
}
