// Takes an image with the camera.

/** Open the camera's dialog; gives a Blob, or null where none was taken. */
export async function takeImage(dialog) {
  const video = dialog.querySelector("video");
  const problem = dialog.querySelector(".problem");
  const take = dialog.querySelector("[data-action=take]");
  problem.hidden = take.disabled = true;
  dialog.showModal();
  let stream;
  const closed = new Promise((resolve) => {
    take.onclick = () => dialog.close("take");
    dialog.querySelector("[data-action=close]").onclick = () => dialog.close("");
    dialog.onclose = () => resolve(dialog.returnValue === "take");
  });
  dialog.returnValue = "";
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    video.srcObject = stream;
    await video.play();
    take.disabled = false;
  } catch (error) {
    const secure = "Browsers lend the camera to https and to localhost only.";
    problem.textContent = isSecureContext ? `There is no camera: ${error.message}.` : secure;
    problem.hidden = false;
  }
  const taken = await closed;
  const image = taken ? await still(video) : null;
  stream?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  return image;
}

function still(video) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
}
