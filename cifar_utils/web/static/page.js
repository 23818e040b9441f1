"use strict";

const find = (id) => document.getElementById(id);
const { maxPictures, maxBytes } = Object.fromEntries(
  Object.entries(document.body.dataset).map(([name, value]) => [name, Number(value)]),
);
const together = 2;
const tries = 4;
let stream = null;

function say(text, isError = false) {
  find("status").textContent = text;
  find("status").classList.toggle("error", isError);
}

async function ask(path, file, model, fit) {
  const body = new FormData();
  body.append("picture", file, file.name);
  for (let left = tries; ; left -= 1) {
    let response;
    try {
      response = await fetch(`${path}?${new URLSearchParams({ model, fit })}`, { method: "POST", body });
    } catch {
      throw new Error("The server cannot be reached. Is it still running?");
    }
    const wait = Number(response.headers.get("Retry-After"));
    if (wait && left > 1) {
      say(`The server is busy; trying again in ${wait} s …`);
      await new Promise((resolve) => setTimeout(resolve, 1000 * wait));
      continue;
    }
    const answer = await response.json().catch(() => ({}));
    if (!response.ok || !Object.keys(answer).length) {
      throw new Error(answer.error || `The server answered ${response.status}.`);
    }
    return answer;
  }
}

function percent(share) {
  if (share > 0.999) return "over 99.9%";
  return share < 0.001 ? "under 0.1%" : `${(100 * share).toFixed(1)}%`;
}

function bars(list, shares) {
  list.replaceChildren(...shares.map(({ label, probability }) => {
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
    return line;
  }));
}

function makeCard(file) {
  const card = find("answer").content.firstElementChild.cloneNode(true);
  const part = (selector) => card.querySelector(selector);
  const address = URL.createObjectURL(file);
  const sent = part(".sent");
  sent.alt = `your picture ${file.name}`;
  for (const kind of ["load", "error"]) sent.addEventListener(kind, () => URL.revokeObjectURL(address));
  sent.src = address;
  card.file = file;
  part("h3").textContent = file.name;
  part(".explain").addEventListener("click", () => explain(card));
  return card;
}

function fail(card, message) {
  card.className = "card error";
  card.querySelector("h3").textContent = card.file.name;
  card.querySelector(".verdict").textContent = message;
}

function fill(card, record) {
  const part = (selector) => card.querySelector(selector);
  card.className = "card";
  card.record = record;
  part(".seen").src = record.seen;
  part(".overlay").removeAttribute("src");
  part(".overlay").hidden = true;
  part(".explain").textContent = "Where did it look?";
  part(".explain").setAttribute("aria-pressed", "false");
  part("h3").textContent = record.known ? record.label : "None of the ten";
  const verdict = part(".verdict");
  const sure = `${percent(record.confidence)} sure${record.calibrated ? "" : " (not calibrated)"}`;
  if (record.known) {
    verdict.textContent = sure;
  } else {
    const mark = document.createElement("span");
    mark.className = "none";
    mark.textContent = "unlike what it was trained on";
    verdict.replaceChildren(mark, ` (${record.why}). If it had to choose: ${record.nearest}.`);
  }
  bars(part(".bars"), record.top.slice(0, 3));
  bars(part(".others"), record.top.slice(3));
  const { width, height, format, notes } = record.picture;
  part(".notes").textContent = [`${format}, ${width} x ${height} pixels`, ...notes].join("; ");
  part(".by").textContent = `by ${record.model}`;
}

async function judgeCard(card) {
  const { file } = card;
  card.className = "card waiting";
  card.querySelector(".verdict").textContent = "Looking at it …";
  if (file.size > maxBytes) {
    fail(card, `the file is too large; at most ${Math.floor(maxBytes / 1e6)} MB are read`);
    return;
  }
  try {
    fill(card, await ask("api/predict", file, find("model").value, find("fit").value));
  } catch (error) {
    fail(card, error.message);
  }
}

async function judgeCards(cards) {
  say(cards.length === 1 ? "Looking at it …" : `Looking at ${cards.length} pictures …`);
  find("results").setAttribute("aria-busy", "true");
  const todo = [...cards];
  await Promise.all(Array.from({ length: together }, async () => {
    while (todo.length) await judgeCard(todo.shift());
  }));
  find("results").removeAttribute("aria-busy");
  const bad = cards.filter((card) => card.classList.contains("error")).length;
  const good = cards.length - bad;
  const { record } = cards.find((card) => !card.classList.contains("error")) || {};
  const first = record && (record.known ? `${record.label}, ${percent(record.confidence)} sure` : "none of the ten");
  const answers = good === 1 ? `Answer: ${first}.` : `${good} answers.`;
  say([good ? answers : "", bad ? `${bad} could not be read.` : ""].join(" ").trim(), !good);
}

async function judge(files) {
  const given = [...files];
  if (!given.length) return;
  if (given.length > maxPictures) {
    say(`${given.length} pictures are too many; at most ${maxPictures} at a time.`, true);
    return;
  }
  const cards = given.map(makeCard);
  const list = find("results");
  list.prepend(...cards);
  while (list.children.length > 2 * maxPictures) list.lastElementChild.remove();
  find("clear").hidden = false;
  cards[0].scrollIntoView({ block: "nearest" });
  await judgeCards(cards);
}

async function explain(card) {
  const button = card.querySelector(".explain");
  const overlay = card.querySelector(".overlay");
  if (!overlay.src) {
    button.textContent = "Looking …";
    try {
      const { model, fit } = card.record;
      const { method, overlay: source } = await ask("api/explain", card.file, model, fit);
      overlay.src = source;
      overlay.alt = `${method}: where the model looked`;
      button.textContent = `Where it looked (${method})`;
      say(`${method}: coloured is where the model looked.`);
    } catch (error) {
      say(error.message, true);
      button.textContent = "Where did it look?";
      return;
    }
  } else if (!overlay.hidden) {
    overlay.hidden = true;
    button.setAttribute("aria-pressed", "false");
    return;
  }
  overlay.hidden = false;
  button.setAttribute("aria-pressed", "true");
}

async function listModels() {
  try {
    const { models } = await (await fetch("api/models")).json();
    for (const { name, card } of models) {
      const option = new Option(name, name);
      option.dataset.card = card ? `api/models/${name.split("/").map(encodeURIComponent).join("/")}/card` : "";
      find("model").append(option);
    }
    nameCard();
  } catch {
    say("The server cannot be reached. Is it still running?", true);
  }
}

function nameCard() {
  const { card } = find("model").selectedOptions[0].dataset;
  find("card").href = card;
  find("card").hidden = !card;
}

function askAgain() {
  const cards = [...find("results").children];
  if (cards.length) judgeCards(cards);
}

async function openCamera() {
  if (stream) return;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    say("The camera cannot be used; the browser may have been told not to allow it.", true);
    return;
  }
  find("video").srcObject = stream;
  find("camera-view").hidden = false;
}

function cameraReady() {
  if (!stream) return;
  find("shoot").disabled = false;
  find("shoot").focus();
}

function closeCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  find("video").srcObject = null;
  find("shoot").disabled = true;
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

async function trySample(button) {
  try {
    const blob = await (await fetch(button.firstElementChild.src)).blob();
    await judge([new File([blob], `${button.dataset.name}.png`, { type: "image/png" })]);
  } catch {
    say("The server cannot be reached. Is it still running?", true);
  }
}

find("form").addEventListener("submit", (event) => event.preventDefault());
find("files").addEventListener("change", (event) => {
  const files = [...event.target.files];
  event.target.value = "";
  judge(files);
});
find("model").addEventListener("change", () => {
  nameCard();
  askAgain();
});
find("fit").addEventListener("change", askAgain);
find("clear").addEventListener("click", () => {
  find("results").replaceChildren();
  find("clear").hidden = true;
  say("");
  find("files").focus();
});
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
  button.addEventListener("click", () => trySample(button));
}
if (navigator.mediaDevices?.getUserMedia) {
  find("camera").hidden = false;
  find("camera").addEventListener("click", openCamera);
  find("video").addEventListener("loadeddata", cameraReady);
  find("shoot").addEventListener("click", shoot);
  find("stop").addEventListener("click", closeCamera);
}
listModels();
