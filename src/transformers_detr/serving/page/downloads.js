// Downloads: results as JSON, annotated image.

import { caption } from "./markers.js";
import { inkOn } from "./colors.js";

/** Saves results in the format of the Hub's inference API. */
export function saveJson(results, name) {
  const entries = results.map(({ score, label, box, mask }) => ({ score, label, ...(box ? { box } : { mask }) }));
  save(new Blob([JSON.stringify(entries, null, 2)], { type: "application/json" }), `${name}.json`);
}

/** Saves the image in its original size with masks, boxes and captions. */
export async function saveImage(bitmap, masks, results, name) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  if (masks) context.drawImage(masks, 0, 0, canvas.width, canvas.height);
  const line = Math.max(2, Math.round(Math.sqrt(canvas.width * canvas.height) / 300));
  context.font = `600 ${Math.max(11, line * 6)}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (const result of [...results].reverse()) drawResult(context, result, line);
  save(await canvas.convertToBlob({ type: "image/png" }), `${name}.png`);
}

function drawResult(context, result, line) {
  const size = Math.max(11, line * 6);
  const text = caption(result);
  const width = context.measureText(text).width + size * 0.6;
  let x, y;
  if (result.box) {
    const { xmin, ymin, xmax, ymax } = result.box;
    const corners = [xmin, ymin, xmax - xmin, ymax - ymin];
    context.lineWidth = line + 2;
    context.strokeStyle = "rgb(0 0 0 / 60%)";
    context.strokeRect(...corners);
    context.lineWidth = line;
    context.strokeStyle = result.color;
    context.strokeRect(...corners);
    [x, y] = [corners[0] - line / 2, corners[1] - size * 1.4];
  } else {
    const [centerX, centerY] = result.center ?? [0.5, 0.5];
    [x, y] = [centerX * context.canvas.width - width / 2, centerY * context.canvas.height - size * 0.7];
  }
  x = Math.min(Math.max(x, 0), context.canvas.width - width);
  y = Math.min(Math.max(y, 0), context.canvas.height - size * 1.4);
  context.fillStyle = result.color;
  context.fillRect(x, y, width, size * 1.4);
  context.fillStyle = inkOn(result.color);
  context.fillText(text, x + size * 0.3, y + size * 0.2);
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
