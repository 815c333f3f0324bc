// Detects with an exported folder in transformers.js, without network; prints the boxes as JSON.
//
//     node transformers_js.mjs FOLDER DTYPE THRESHOLD IMAGE...
//
// DTYPE is fp32, fp16 or q8. The package is looked for where node looks, or at the path in TRANSFORMERS_JS
// (`npm install --ignore-scripts @huggingface/transformers`). Exit status 3: it is not there.

import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

let library;
try {
  const place = process.env.TRANSFORMERS_JS;
  const require = createRequire(place ? path.join(place, "package.json") : import.meta.url);
  library = await import(pathToFileURL(require.resolve("@huggingface/transformers")));
} catch (error) {
  console.error(String(error));
  process.exit(3);
}
const { AutoProcessor, RawImage, env, pipeline } = library;
const [folder, dtype, threshold, ...paths] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = path.dirname(path.resolve(folder));
const name = path.basename(folder);

const detect = await pipeline("object-detection", name, { dtype });
const processor = await AutoProcessor.from_pretrained(name);
const found = [];
for (const path of paths) {
  const image = await RawImage.read(path);
  const inputs = await processor(image);
  const detections = await detect(image, { threshold: Number(threshold) });
  const { logits, pred_boxes: boxes } = await detect.model(inputs);
  found.push({
    processed: inputs.pixel_values.dims,
    mask: inputs.pixel_mask.dims,
    detections,
    logits: Array.from(logits.data),
    boxes: Array.from(boxes.data),
  });
}
console.log(JSON.stringify(found));
