// What was found, on the picture: a button for each, as large as its box, or a caption in its segment.

import { inkOn } from "./colors.js";

const SMALL = 0.055;
const CHIP_ROOM = 0.06;

/** Fills the group with a marker for each finding; `choose` is told of what is pointed at, focused or tapped. */
export function placeMarkers(group, findings, picture, choose) {
  group.replaceChildren(...findings.map((finding) => marker(finding, picture, choose)));
  group.onkeydown = (event) => walk(group, event);
}

/** Shows the markers that are wanted; one of them takes the focus when the group is reached by Tab. */
export function showMarkers(group, findings, isShown, chosen) {
  let reachable = false;
  for (const [index, element] of [...group.children].entries()) {
    const finding = findings[index];
    element.hidden = !isShown(finding);
    element.classList.toggle("chosen", finding === chosen);
    element.tabIndex = -1;
    if (!element.hidden && (!reachable || finding === chosen)) {
      if (reachable) for (const other of group.children) other.tabIndex = -1;
      element.tabIndex = 0;
      reachable = true;
    }
  }
}

function marker(finding, picture, choose) {
  const element = document.createElement("button");
  element.type = "button";
  element.className = "marker";
  element.style.setProperty("--color", finding.color);
  element.style.setProperty("--on-color", inkOn(finding.color));
  element.setAttribute("aria-label", describe(finding));
  const chip = document.createElement("span");
  chip.className = "chip";
  chip.textContent = caption(finding);
  element.append(chip);
  if (finding.box) placeBox(element, finding.box, picture);
  else placeCaption(element, finding.middle);
  element.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && choose(finding, "hover"));
  element.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && choose(null, "hover"));
  element.addEventListener("focus", () => element.matches(":focus-visible") && choose(finding, "focus"));
  element.addEventListener("blur", () => choose(null, "focus"));
  element.addEventListener("click", () => choose(finding, "click"));
  return element;
}

function placeBox(element, box, picture) {
  const clip = (value, most) => Math.min(Math.max(value / most, 0), 1);
  const left = clip(box.xmin, picture.width);
  const top = clip(box.ymin, picture.height);
  const width = clip(box.xmax, picture.width) - left;
  const height = clip(box.ymax, picture.height) - top;
  element.classList.add("box");
  element.classList.toggle("low", top < CHIP_ROOM);
  element.classList.toggle("right", left > 0.8);
  element.classList.toggle("small", width < SMALL);
  Object.assign(element.style, { left: percent(left), top: percent(top), width: percent(width), height: percent(height) });
  element.style.zIndex = String(Math.round(1000 * (1 - width * height))); // small ones can be reached in large ones
}

function placeCaption(element, middle) {
  element.classList.add("place");
  const [x, y] = middle ?? [0.5, 0.5];
  Object.assign(element.style, { left: percent(x), top: percent(y) });
}

function walk(group, event) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const shown = [...group.children].filter((element) => !element.hidden);
  const at = shown.indexOf(document.activeElement);
  shown[(at + step + shown.length) % shown.length]?.focus();
}

export function caption({ label, score }) {
  return score === null ? label : `${label} ${Math.floor(score * 100)}`;
}

export function describe({ label, score }) {
  return score === null ? label : `${label}, ${Math.floor(score * 100)} percent sure`;
}

function percent(part) {
  return `${100 * part}%`;
}
