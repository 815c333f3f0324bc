// Photo from the camera.

/** Connects the camera's buttons; calls `take` with each photo and `fail` with an error message. */
export function connectCamera(element, take, fail) {
  let stream = null;

  function show(open) {
    element("camera").hidden = !open;
    for (const id of ["shoot", "close-camera"]) element(id).hidden = !open;
    for (const id of ["choose", "open-camera", "save-image", "save-json"]) element(id).hidden = open;
    document.body.classList.toggle("camera-open", open);
  }

  function close() {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = null;
    show(false);
  }

  element("open-camera").hidden = !navigator.mediaDevices; // browsers offer it on https and localhost only
  element("open-camera").addEventListener("click", async () => {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
    } catch {
      fail("No camera available, or this page has no permission to use it.");
      return;
    }
    const video = element("video");
    video.srcObject = stream;
    await video.play();
    element("camera").style.setProperty("--ratio", video.videoWidth / video.videoHeight);
    show(true);
    element("shoot").focus();
  });
  element("shoot").addEventListener("click", async () => {
    const video = element("video");
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    close();
    const photo = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
    take(new File([photo], "camera.jpg", { type: "image/jpeg" }));
  });
  element("close-camera").addEventListener("click", close);
}
