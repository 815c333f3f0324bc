// Markers on the image: a button per result, with the size of its box, or a caption in its segment.

import { inkOn } from "./colors.js";

const SMALL = 0.055;
const CHIP_ROOM = 0.06;

/** Fills the group with a marker per result; calls `select` on hover, focus and click. */
export function placeMarkers(group, results, image, select) {
  group.replaceChildren(...results.map((result) => marker(result, image, select)));
  group.onkeydown = (event) => {
    walk(group, event); // returns nothing: a handler that returns false would cancel the key
  };
}

/** Shows or hides each marker; one of them can be focused by Tab. */
export function showMarkers(group, results, isShown, selected) {
  let focusable = false;
  for (const [index, element] of [...group.children].entries()) {
    const result = results[index];
    element.hidden = !isShown(result);
    element.classList.toggle("selected", result === selected);
    element.tabIndex = -1;
    if (!element.hidden && (!focusable || result === selected)) {
      if (focusable) for (const other of group.children) other.tabIndex = -1;
      element.tabIndex = 0;
      focusable = true;
    }
  }
}

function marker(result, image, select) {
  const element = document.createElement("button");
  element.type = "button";
  element.className = "marker";
  element.style.setProperty("--color", result.color);
  element.style.setProperty("--on-color", inkOn(result.color));
  element.setAttribute("aria-label", describe(result));
  const chip = document.createElement("span");
  chip.className = "chip";
  chip.textContent = caption(result);
  element.append(chip);
  if (result.box) placeBox(element, result.box, image);
  else placeCaption(element, result.center);
  element.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && select(result, "hover"));
  element.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && select(null, "hover"));
  element.addEventListener("focus", () => element.matches(":focus-visible") && select(result, "focus"));
  element.addEventListener("blur", () => select(null, "focus"));
  element.addEventListener("click", () => select(result, "click"));
  return element;
}

function placeBox(element, box, image) {
  const clip = (value, most) => Math.min(Math.max(value / most, 0), 1);
  const left = clip(box.xmin, image.width);
  const top = clip(box.ymin, image.height);
  const width = clip(box.xmax, image.width) - left;
  const height = clip(box.ymax, image.height) - top;
  element.classList.add("box");
  element.classList.toggle("low", top < CHIP_ROOM);
  element.classList.toggle("right", left > 0.8);
  element.classList.toggle("small", width < SMALL);
  Object.assign(element.style, { left: percent(left), top: percent(top), width: percent(width), height: percent(height) });
  element.style.zIndex = String(Math.round(1000 * (1 - width * height))); // small boxes above large ones
}

function placeCaption(element, center) {
  element.classList.add("place");
  const [x, y] = center ?? [0.5, 0.5];
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
  return score === null ? label : `${label}, ${Math.floor(score * 100)} percent`;
}

function percent(part) {
  return `${100 * part}%`;
}
