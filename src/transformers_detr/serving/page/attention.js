// Attention of a query, drawn as a spotlight over the image.

const MAX_OPACITY = 0.86;
const GAMMA = 0.55; // attention is peaked; this makes low values visible

/** Returns the query of a result: same class, nearest score. */
export function queryOf(result, queries) {
  const distance = (query) => Math.abs(query.score - result.score);
  const sameClass = queries.filter((query) => query.label === result.label);
  return sameClass.reduce((best, query) => (best && distance(best) <= distance(query) ? best : query), null);
}

/** Draws a query's map on a canvas with one pixel per cell; the page scales it to the image. */
export function drawAttention(canvas, { width, height }, query) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const values = atob(query.attention);
  for (let cell = 0; cell < width * height; cell++) {
    const value = (values.charCodeAt(cell) / 255) ** GAMMA;
    pixels.data.set([6, 10, 18, 255 * MAX_OPACITY * (1 - value)], 4 * cell);
  }
  context.putImageData(pixels, 0, 0);
}
