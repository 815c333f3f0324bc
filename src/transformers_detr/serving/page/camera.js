// A picture from the camera.

/** Wires the camera's buttons; `take` gets each picture that is taken, `fail` what went wrong. */
export function wireCamera(element, take, fail) {
  let stream = null;

  function show(open) {
    element("camera").hidden = !open;
    for (const id of ["shoot", "close-camera"]) element(id).hidden = !open;
    for (const id of ["choose", "open-camera", "save-picture", "save-json"]) element(id).hidden = open;
    document.body.classList.toggle("filming", open);
  }

  function close() {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = null;
    show(false);
  }

  element("open-camera").hidden = !navigator.mediaDevices; // browsers offer it to https and localhost only
  element("open-camera").onclick = async () => {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
    } catch {
      fail("There is no camera, or this page may not use it.");
      return;
    }
    const video = element("video");
    video.srcObject = stream;
    await video.play();
    element("camera").style.setProperty("--ratio", video.videoWidth / video.videoHeight);
    show(true);
    element("shoot").focus();
  };
  element("shoot").onclick = async () => {
    const video = element("video");
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    close();
    const shot = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
    take(new File([shot], "camera.jpg", { type: "image/jpeg" }));
  };
  element("close-camera").onclick = close;
}
