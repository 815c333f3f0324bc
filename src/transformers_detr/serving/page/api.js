// Asks the service; everything else on this page is told by its answers.

let token = "";

export class Problem extends Error {
  constructor(reason, status = 0) {
    super(reason);
    this.status = status;
  }
}

export function useToken(value) {
  token = value;
}

export async function listModels() {
  return (await send("models", {})).json();
}

/** Finds what is in a picture: `{entries, timing}`, the timing in milliseconds by stage. */
export async function find(model, picture, threshold, signal) {
  const started = performance.now();
  const answer = await ask(model, "", picture, threshold, signal);
  const entries = await answer.json();
  const timing = readTiming(answer.headers.get("Server-Timing") ?? "");
  return { entries, timing: { ...timing, "round trip": performance.now() - started } };
}

/** Where the queries looked: `{width, height, queries}`. */
export async function attend(model, picture, threshold, signal) {
  return (await ask(model, "/attention", picture, threshold, signal)).json();
}

function ask(model, what, picture, threshold, signal) {
  const path = model.split("/").map(encodeURIComponent).join("/");
  const headers = { "Content-Type": picture.type || "application/octet-stream" };
  const query = `threshold=${threshold}&details=true`;
  return send(`models/${path}${what}?${query}`, { method: "POST", body: picture, headers, signal });
}

async function send(address, options) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let answer;
  try {
    answer = await fetch(address, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service cannot be reached.");
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Problem(told.error ?? `The service answered with status ${answer.status}.`, answer.status);
  }
  return answer;
}

function readTiming(header) {
  const stages = {};
  for (const [, name, milliseconds] of header.matchAll(/([\w-]+);dur=([\d.]+)/g)) stages[name] = Number(milliseconds);
  return stages;
}
