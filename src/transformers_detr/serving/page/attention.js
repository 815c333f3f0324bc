// Where a query looked: a spotlight over the picture.

const DARKEST = 0.86;
const LIFT = 0.55; // attention is peaked; so its foothills show too

/** The query that found a finding: of the same class, with the nearest score. */
export function queryOf(finding, queries) {
  const distance = (query) => Math.abs(query.score - finding.score);
  const alike = queries.filter((query) => query.label === finding.label);
  return alike.reduce((best, query) => (best && distance(best) <= distance(query) ? best : query), null);
}

/** Draws a query's map on a canvas of one pixel per cell, which the page stretches smoothly over the picture. */
export function drawAttention(canvas, { width, height }, query) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const values = atob(query.attention);
  for (let cell = 0; cell < width * height; cell++) {
    const value = (values.charCodeAt(cell) / 255) ** LIFT;
    pixels.data.set([6, 10, 18, 255 * DARKEST * (1 - value)], 4 * cell);
  }
  context.putImageData(pixels, 0, 0);
}
