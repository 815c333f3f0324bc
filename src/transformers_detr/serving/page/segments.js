// Masks of segments: one map of the segment of each pixel, and its drawing.

import { channels } from "./colors.js";

const MAX_SIDE = 1024;
const TINT = 128;
const SELECTED_TINT = 190;
const OTHER_TINT = 50;

/** Reads the masks of results: `{width, height, owner}`; the owner of a pixel is the index of a result + 1, or 0. */
export async function readMasks(results, imageWidth, imageHeight) {
  const scale = Math.min(1, MAX_SIDE / Math.max(imageWidth, imageHeight));
  const width = Math.max(1, Math.round(imageWidth * scale));
  const height = Math.max(1, Math.round(imageHeight * scale));
  const owner = new Uint16Array(width * height);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  for (const [index, result] of results.entries()) {
    const bytes = Uint8Array.from(atob(result.mask), (letter) => letter.charCodeAt(0));
    const mask = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
    context.drawImage(mask, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    for (let pixel = 0; pixel < owner.length; pixel++) if (data[4 * pixel] > 127) owner[pixel] = index + 1;
  }
  return { width, height, owner };
}

/** Returns a point of each segment near its center, relative to the image; null if it has no pixels. */
export function centers({ width, height, owner }, count) {
  const sums = Array.from({ length: count }, () => [0, 0, 0]);
  forEachPixel(owner, width, (index, x, y) => {
    sums[index][0] += x;
    sums[index][1] += y;
    sums[index][2] += 1;
  });
  const best = sums.map(() => [Infinity, 0, 0]);
  forEachPixel(owner, width, (index, x, y) => {
    const [sumX, sumY, pixels] = sums[index];
    const distance = (x - sumX / pixels) ** 2 + (y - sumY / pixels) ** 2;
    if (distance < best[index][0]) best[index] = [distance, x, y];
  });
  return best.map(([distance, x, y]) => (distance === Infinity ? null : [(x + 0.5) / width, (y + 0.5) / height]));
}

/** Tints the visible segments, the selected one strongest, and draws their edges. */
export function drawSegments(canvas, map, results, isShown, selected) {
  const { width, height, owner } = map;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const words = new Uint32Array(pixels.data.buffer);
  const strength = (result) => (!selected ? TINT : result === selected ? SELECTED_TINT : OTHER_TINT);
  const tints = results.map((result) => word(...channels(result.color), strength(result)));
  const edge = word(0, 0, 0, 220);
  const shown = results.map(isShown);
  forEachPixel(owner, width, (index, x, y, pixel) => {
    if (!shown[index]) return;
    const own = owner[pixel];
    const atEdge = x + 1 === width || y + 1 === height || owner[pixel + 1] !== own || owner[pixel + width] !== own;
    words[pixel] = atEdge ? edge : tints[index];
  });
  context.putImageData(pixels, 0, 0);
}

/** Returns the index of the result at a point relative to the image, or -1. */
export function resultAt({ width, height, owner }, x, y) {
  const column = Math.min(width - 1, Math.max(0, Math.floor(x * width)));
  const row = Math.min(height - 1, Math.max(0, Math.floor(y * height)));
  return owner[row * width + column] - 1;
}

function forEachPixel(owner, width, visit) {
  for (let pixel = 0; pixel < owner.length; pixel++) {
    if (owner[pixel]) visit(owner[pixel] - 1, pixel % width, Math.floor(pixel / width), pixel);
  }
}

/** Packs a pixel in the memory layout of a canvas. */
function word(red, green, blue, alpha) {
  return new Uint32Array(new Uint8ClampedArray([red, green, blue, alpha]).buffer)[0];
}
