// Side panel: summary, classes, list of results, timing.

import { describe } from "./markers.js";

/** Shows a button per class with its count above the threshold; calls `toggle` with the class. */
export function showClasses(parent, results, isAboveThreshold, hidden, toggle) {
  const counts = new Map();
  for (const result of results) {
    const entry = counts.get(result.label) ?? { color: result.color, count: 0 };
    entry.count += isAboveThreshold(result) ? 1 : 0;
    counts.set(result.label, entry);
  }
  const labels = [...counts].filter(([label, { count }]) => count || hidden.has(label));
  keepFocus(parent, "label", () =>
    parent.replaceChildren(
      ...labels.map(([label, { color, count }]) => {
        const button = entry("button", color, label, String(count));
        button.dataset.label = label;
        button.setAttribute("aria-pressed", String(!hidden.has(label)));
        button.addEventListener("click", () => toggle(label));
        return button;
      }),
    ),
  );
}

/** Shows a button per result, sorted by score. */
export function showResults(parent, results, selected, select) {
  const nothing = Object.assign(document.createElement("li"), { className: "none", textContent: "No objects above this score." });
  const items = results.map((result) => {
    const button = entry("button", result.color, result.label, percentage(result.score));
    button.lastChild.className = "score";
    button.dataset.index = result.index;
    button.style.setProperty("--score", result.score ?? 0);
    button.setAttribute("aria-label", describe(result));
    button.setAttribute("aria-pressed", String(result === selected));
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && select(result, "hover"));
    button.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && select(null, "hover"));
    button.addEventListener("focus", () => button.matches(":focus-visible") && select(result, "focus"));
    button.addEventListener("blur", () => select(null, "focus"));
    button.addEventListener("click", () => select(result, "click"));
    const item = document.createElement("li");
    item.append(button);
    return item;
  });
  parent.replaceChildren(...(items.length ? items : [nothing]));
}

/** Marks the selected result. */
export function markSelected(parent, selected) {
  for (const button of parent.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(selected !== null && button.dataset.index === String(selected.index)));
  }
}

/** Returns a summary of the results. */
export function summary(results) {
  if (!results.length) return "No objects above this score. Try a lower threshold.";
  const counts = new Map();
  for (const { label } of results) counts.set(label, (counts.get(label) ?? 0) + 1);
  const parts = [...counts].sort((a, b) => b[1] - a[1]).map(([label, count]) => `${count} × ${label}`);
  return parts.length > 6 ? `${results.length} objects of ${parts.length} classes` : parts.join(", ");
}

export function showTiming(parent, timing) {
  const names = { model: "model", decode: "decoding", queue: "waiting", "round trip": "round trip" };
  const pairs = Object.entries(names).filter(([stage]) => stage in timing);
  parent.replaceChildren(
    ...pairs.map(([stage, name]) => {
      const pair = document.createElement("div");
      pair.append(text("dt", name), text("dd", `${Math.round(timing[stage])} ms`));
      return pair;
    }),
  );
}

function entry(tag, color, label, note) {
  const element = Object.assign(document.createElement(tag), { type: "button" });
  element.style.setProperty("--color", color);
  const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
  element.append(swatch, text("span", label), text("small", note));
  return element;
}

function text(tag, content) {
  return Object.assign(document.createElement(tag), { textContent: content });
}

function percentage(score) {
  return score === null ? "" : `${Math.floor(score * 100)} %`;
}

function keepFocus(parent, key, change) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset[key] : undefined;
  change();
  if (focused !== undefined) [...parent.children].find((child) => child.dataset[key] === focused)?.focus();
}
