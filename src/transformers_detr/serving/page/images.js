// Opens image files for display and upload.

const UPLOAD_TYPES = ["image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp"];
const MAX_FILE_BYTES = 8e6;
const MAX_UPLOAD_SIDE = 2048;

/** Opens an image: `{bitmap, upload}`. Files of other types or very large ones are uploaded as JPEG. */
export async function openImage(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error("This browser cannot open the file as an image.");
  }
  const unchanged = UPLOAD_TYPES.includes(file.type) && file.size <= MAX_FILE_BYTES;
  return { bitmap, upload: unchanged ? file : await asJpeg(bitmap) };
}

/** Returns the first image of a drop or paste, if any. */
export function firstImage(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));
}

async function asJpeg(bitmap) {
  const scale = Math.min(1, MAX_UPLOAD_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const upload = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  return Object.assign(upload, { width: canvas.width, height: canvas.height });
}
