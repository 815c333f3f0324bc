// The panel beside the picture: summary, classes, list, timing.

import { describe } from "./markers.js";

/** A button for each class, with how many of it are sure enough; `toggle` is told which was pressed. */
export function showClasses(parent, findings, isSure, hidden, toggle) {
  const counts = new Map();
  for (const finding of findings) {
    const entry = counts.get(finding.label) ?? { color: finding.color, count: 0 };
    entry.count += isSure(finding) ? 1 : 0;
    counts.set(finding.label, entry);
  }
  const labels = [...counts].filter(([label, { count }]) => count || hidden.has(label));
  keepFocus(parent, "label", () =>
    parent.replaceChildren(
      ...labels.map(([label, { color, count }]) => {
        const button = entry("button", color, label, String(count));
        button.dataset.label = label;
        button.setAttribute("aria-pressed", String(!hidden.has(label)));
        button.onclick = () => toggle(label);
        return button;
      }),
    ),
  );
}

/** A button for each finding that is shown, the surest first. */
export function showFindings(parent, findings, chosen, choose) {
  const nothing = Object.assign(document.createElement("li"), { className: "none", textContent: "Nothing as sure as that." });
  const items = findings.map((finding) => {
    const button = entry("button", finding.color, finding.label, percentage(finding.score));
    button.lastChild.className = "score";
    button.dataset.index = finding.index;
    button.style.setProperty("--score", finding.score ?? 0);
    button.setAttribute("aria-label", describe(finding));
    button.setAttribute("aria-pressed", String(finding === chosen));
    button.onpointerenter = (event) => event.pointerType === "mouse" && choose(finding, "hover");
    button.onpointerleave = (event) => event.pointerType === "mouse" && choose(null, "hover");
    button.onfocus = () => button.matches(":focus-visible") && choose(finding, "focus");
    button.onblur = () => choose(null, "focus");
    button.onclick = () => choose(finding, "click");
    const item = document.createElement("li");
    item.append(button);
    return item;
  });
  parent.replaceChildren(...(items.length ? items : [nothing]));
}

/** Marks the chosen one. */
export function markChosen(parent, chosen) {
  for (const button of parent.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(chosen !== null && button.dataset.index === String(chosen.index)));
  }
}

/** What was found, in a sentence. */
export function summary(findings) {
  if (!findings.length) return "Nothing found that is sure enough.";
  const counts = new Map();
  for (const { label } of findings) counts.set(label, (counts.get(label) ?? 0) + 1);
  const parts = [...counts].sort((a, b) => b[1] - a[1]).map(([label, count]) => `${count} × ${label}`);
  return parts.length > 6 ? `${findings.length} found, of ${parts.length} classes` : parts.join(", ");
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
