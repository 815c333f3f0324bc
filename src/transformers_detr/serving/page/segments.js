// Masks of segments → one map of whose pixel is whose, and its drawing.

import { channels } from "./colors.js";

const LONGEST_SIDE = 1024;
const TINT = 128;
const CHOSEN_TINT = 190;
const OTHER_TINT = 50;

/** Reads the masks of findings: `{width, height, owner}`; the owner of a pixel is a finding's index + 1, or 0. */
export async function readMasks(findings, pictureWidth, pictureHeight) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(pictureWidth, pictureHeight));
  const width = Math.max(1, Math.round(pictureWidth * scale));
  const height = Math.max(1, Math.round(pictureHeight * scale));
  const owner = new Uint16Array(width * height);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  for (const [index, finding] of findings.entries()) {
    const bytes = Uint8Array.from(atob(finding.mask), (letter) => letter.charCodeAt(0));
    const mask = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
    context.drawImage(mask, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    for (let pixel = 0; pixel < owner.length; pixel++) if (data[4 * pixel] > 127) owner[pixel] = index + 1;
  }
  return { width, height, owner };
}

/** A pixel of each finding near the middle of its segment, relative to the picture; null where there is none. */
export function middles({ width, height, owner }, count) {
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

/** Tints the segments that are shown and draws their edges; one that is chosen stands out. */
export function drawSegments(canvas, map, findings, isShown, chosen) {
  const { width, height, owner } = map;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const words = new Uint32Array(pixels.data.buffer);
  const strength = (finding) => (!chosen ? TINT : finding === chosen ? CHOSEN_TINT : OTHER_TINT);
  const tints = findings.map((finding) => word(...channels(finding.color), strength(finding)));
  const edge = word(0, 0, 0, 220);
  const shown = findings.map(isShown);
  forEachPixel(owner, width, (index, x, y, pixel) => {
    if (!shown[index]) return;
    const own = owner[pixel];
    const atEdge = x + 1 === width || y + 1 === height || owner[pixel + 1] !== own || owner[pixel + width] !== own;
    words[pixel] = atEdge ? edge : tints[index];
  });
  context.putImageData(pixels, 0, 0);
}

/** The index of the finding at a place relative to the picture, or -1. */
export function findingAt({ width, height, owner }, x, y) {
  const column = Math.min(width - 1, Math.max(0, Math.floor(x * width)));
  const row = Math.min(height - 1, Math.max(0, Math.floor(y * height)));
  return owner[row * width + column] - 1;
}

function forEachPixel(owner, width, visit) {
  for (let pixel = 0; pixel < owner.length; pixel++) {
    if (owner[pixel]) visit(owner[pixel] - 1, pixel % width, Math.floor(pixel / width), pixel);
  }
}

/** A pixel as the memory of a canvas holds it. */
function word(red, green, blue, alpha) {
  return new Uint32Array(new Uint8ClampedArray([red, green, blue, alpha]).buffer)[0];
}
