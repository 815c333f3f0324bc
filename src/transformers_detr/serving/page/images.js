// A file of the user → what is shown, and what is sent.

const SENT_AS_IT_IS = ["image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp"];
const LARGEST_FILE = 8e6;
const LONGEST_SIDE = 2048;

/** Opens a picture: `{bitmap, sent}`; what the service may not know, or is very large, is sent as a JPEG of it. */
export async function openPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error("This browser cannot open that file as a picture.");
  }
  const asItIs = SENT_AS_IT_IS.includes(file.type) && file.size <= LARGEST_FILE;
  return { bitmap, sent: asItIs ? file : await asJpeg(bitmap) };
}

/** The first picture of a drop or a paste, if there is one. */
export function pictureIn(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));
}

async function asJpeg(bitmap) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const sent = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  return Object.assign(sent, { width: canvas.width, height: canvas.height });
}
