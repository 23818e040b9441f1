"use strict";

const find = (id) => document.getElementById(id);
const most = Number(document.body.dataset.most);
let stream = null;

function say(text, isError = false) {
  find("status").textContent = text;
  find("status").classList.toggle("error", isError);
}

function query() {
  return new URLSearchParams({ model: find("model").value, fit: find("fit").value });
}

async function ask(path, fields) {
  const body = new FormData();
  for (const [name, file] of fields) body.append(name, file, file.name || "picture.png");
  let response;
  try {
    response = await fetch(`${path}?${query()}`, { method: "POST", body });
  } catch {
    throw new Error("The server cannot be reached. Is it still running?");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `The server answered ${response.status}.`);
  return answer;
}

function percent(share) {
  return `${(100 * share).toFixed(share > 0.9995 || share < 0.0005 ? 0 : 1)}%`;
}

function bars(list, top) {
  for (const { label, probability } of top) {
    const line = document.createElement("li");
    const name = document.createElement("span");
    const meter = document.createElement("meter");
    const share = document.createElement("span");
    name.textContent = label;
    meter.max = 1;
    meter.value = probability;
    meter.setAttribute("aria-label", label);
    share.className = "share";
    share.textContent = percent(probability);
    line.append(name, meter, share);
    list.append(line);
  }
}

function show(file, record) {
  const card = find("answer").content.firstElementChild.cloneNode(true);
  const part = (selector) => card.querySelector(selector);
  const address = URL.createObjectURL(file);
  const sent = part(".sent");
  sent.src = address;
  sent.alt = file.name ? `your picture ${file.name}` : "your picture";
  sent.addEventListener("load", () => URL.revokeObjectURL(address));
  sent.addEventListener("error", () => URL.revokeObjectURL(address));
  if (record.error) {
    card.classList.add("error");
    part("h3").textContent = file.name || "This picture";
    part(".verdict").textContent = record.error;
    for (const selector of [".bars", ".notes", ".explain", ".pictures"]) part(selector).remove();
  } else {
    part(".seen").src = record.seen;
    part("h3").textContent = record.known ? record.label : "None of the ten";
    const verdict = part(".verdict");
    if (record.known) {
      verdict.textContent = `${percent(record.confidence)} sure`;
    } else {
      const mark = document.createElement("span");
      mark.className = "none";
      mark.textContent = "unlike what it was trained on";
      verdict.append(mark, ` (${record.why}). If it had to choose: ${record.nearest}.`);
    }
    bars(part(".bars"), record.top.slice(0, 3));
    const { width, height, format, notes } = record.picture;
    part(".notes").textContent = [`${format}, ${width} x ${height} pixels`, ...notes].join("; ");
    part(".explain").addEventListener("click", (event) => explain(event.target, card, file));
  }
  find("results").prepend(card);
}

async function explain(button, card, file) {
  const overlay = card.querySelector(".overlay");
  if (overlay.src) {
    overlay.hidden = !overlay.hidden;
    return;
  }
  button.disabled = true;
  button.textContent = "Looking …";
  try {
    const { method, overlay: source } = await ask("api/explain", [["picture", file]]);
    overlay.src = source;
    overlay.alt = `${method}: where the model looked`;
    overlay.hidden = false;
    button.textContent = `Show or hide ${method}`;
  } catch (error) {
    say(error.message, true);
    button.textContent = "Where did it look?";
  }
  button.disabled = false;
}

async function judge(files) {
  const given = [...files];
  if (!given.length) return;
  if (given.length > most) {
    say(`${given.length} pictures are too many; at most ${most} at a time.`, true);
    return;
  }
  say(given.length === 1 ? "Looking at it …" : `Looking at ${given.length} pictures …`);
  try {
    const { results } = await ask("api/predict/many", given.map((file) => ["pictures", file]));
    results.forEach((record, place) => show(given[place], record));
    const bad = results.filter((record) => record.error).length;
    const good = results.length - bad;
    const said = results.find((record) => !record.error);
    const first = said && (said.known ? `${said.label}, ${percent(said.confidence)} sure` : "none of the ten");
    say(
      [good === 1 ? `Answer: ${first}.` : `${good} answers.`, bad ? `${bad} could not be read.` : ""]
        .join(" ").trim(),
      good === 0,
    );
  } catch (error) {
    say(error.message, true);
  }
}

async function models() {
  try {
    const answer = await (await fetch("api/models")).json();
    for (const { name } of answer.models) find("model").append(new Option(name, name));
    named();
  } catch {
    say("The server cannot be reached. Is it still running?", true);
  }
}

function named() {
  const name = find("model").value;
  find("card").href = `api/models/${name}/card`;
  find("card").hidden = !name;
}

async function openCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    say("The camera cannot be used; the browser may have been told not to allow it.", true);
    return;
  }
  find("video").srcObject = stream;
  find("camera-view").hidden = false;
  find("shoot").focus();
}

function closeCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  find("camera-view").hidden = true;
  find("camera").focus();
}

function shoot() {
  const video = find("video");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => judge([new File([blob], "camera.png", { type: "image/png" })]), "image/png");
}

find("form").addEventListener("submit", (event) => event.preventDefault());
find("files").addEventListener("change", (event) => {
  judge(event.target.files).then(() => { event.target.value = ""; });
});
find("model").addEventListener("change", named);
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    find("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) find("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  find("drop").classList.remove("over");
  judge(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => judge(event.clipboardData.files));
for (const button of document.querySelectorAll(".sample")) {
  button.addEventListener("click", async () => {
    const blob = await (await fetch(button.firstElementChild.src)).blob();
    judge([new File([blob], `${button.dataset.name}.png`, { type: "image/png" })]);
  });
}
if (navigator.mediaDevices?.getUserMedia) {
  find("camera").hidden = false;
  find("camera").addEventListener("click", openCamera);
  find("shoot").addEventListener("click", shoot);
  find("stop").addEventListener("click", closeCamera);
}
models();
