// The page: fetches the model once, hands photos to the worker one by one, and shows what comes back.

import {explain} from "./heat.js";

const WORDS = {accept: "Accept", uncertain: "Uncertain", reject: "Reject", unreadable: "Not readable"};
const $ = (id) => document.getElementById(id);
const scope = new URL("./", location.href).href;
const counts = {reject: 0, uncertain: 0, accept: 0, unreadable: 0};
const waiting = [];
let about;
let worker;
let isBusy = false;

async function start() {
  const isKept = register();
  about = await (await fetch("model.json")).json();
  describe();
  const cache = await openCache();
  const wanted = about.files;
  const total = wanted.reduce((sum, {bytes}) => sum + bytes, 0);
  let done = 0;
  const advance = (bytes) => {
    done += bytes;
    $("progress").value = Math.min(1, done / total);
    $("state").textContent = `Loading the model, once: ${Math.round(done / 1e6)} of ${Math.round(total / 1e6)} MB`;
  };
  const [model, wasm] = await Promise.all(wanted.map(({name}) => load(name, cache, advance)));
  $("state").textContent = "Opening the model …";
  worker = openWorker();
  await ask("open", {model, wasm, facts: about}, [model, wasm]);
  $("progress").hidden = true;
  for (const input of [$("camera"), $("chooser")]) input.disabled = false;
  document.body.dataset.state = "ready";
  $("state").textContent = "Ready.";
  if ((await isKept) && cache) {
    $("state").textContent = "Ready. Works without a network from now on.";
    document.body.dataset.offline = "ready";
  }
  next();
}

function register() {
  if (!("serviceWorker" in navigator)) return Promise.resolve(false);
  return navigator.serviceWorker.register("sw.js").then(
    () => navigator.serviceWorker.ready.then(() => true),
    () => false,
  );
}

async function openCache() {
  try {
    return await caches.open(`inlier ${scope} ${about.version}`);
  } catch {
    return null; // a page that is not served safely has none
  }
}

/** A large file, from the cache or the network. */
async function load(name, cache, advance) {
  const kept = await cache?.match(name);
  if (kept) {
    const content = await kept.arrayBuffer();
    advance(content.byteLength);
    return content;
  }
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} cannot be fetched (${response.status}).`);
  const parts = [];
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    advance(part.value.byteLength);
  }
  const content = new Blob(parts);
  try {
    await cache?.put(name, new Response(content, {headers: {"content-type": "application/octet-stream"}}));
  } catch {
    // no room to keep it: it works, and is fetched again next time
  }
  return content.arrayBuffer();
}

/** A worker made here, and not from an address, is bound by this page's security policy. */
function openWorker() {
  const source = `import ${JSON.stringify(new URL("worker.js", location.href).href)};`;
  const address = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
  const opened = new Worker(address, {type: "module"});
  opened.onmessage = ({data: {id, result, error}}) => {
    const {resolve, reject} = asked.get(id);
    asked.delete(id);
    if (error) reject(new Error(error));
    else resolve(result);
  };
  opened.onerror = (event) => {
    for (const {reject} of asked.values()) reject(new Error(event.message || "The model cannot be run."));
    asked.clear();
  };
  return opened;
}

const asked = new Map();
let lastId = 0;

function ask(task, given, moved = []) {
  return new Promise((resolve, reject) => {
    lastId += 1;
    asked.set(lastId, {resolve, reject});
    worker.postMessage({id: lastId, task, ...given}, moved);
  });
}

function add(files) {
  for (const file of files) {
    const card = $("card").content.firstElementChild.cloneNode(true);
    card.setAttribute("aria-busy", "true");
    card.querySelector(".name").textContent = file.name;
    $("cards").prepend(card);
    waiting.push({file, card});
  }
  $("empty").hidden = true;
  $("line").hidden = false;
  next();
}

async function next() {
  if (isBusy || !waiting.length || !worker) return;
  isBusy = true;
  const {file, card} = waiting.shift();
  card.querySelector(".waiting").textContent = "Looking …";
  try {
    show(card, file, await ask("judge", {file}));
  } catch (error) {
    fail(card, error);
  }
  card.removeAttribute("aria-busy");
  summarise();
  isBusy = false;
  next();
}

function show(card, file, result) {
  const {verdict, score, pValue, component, probability, seconds} = result;
  card.dataset.verdict = verdict;
  card.dataset.score = score;
  card.dataset.p = pValue;
  card.dataset.pixels = `${result.width} x ${result.height}`;
  counts[verdict] += 1;
  name(card, verdict);
  card.querySelector(".meaning").textContent = explain(pValue, about.numCalibration);
  if (component !== null) {
    const line = card.querySelector(".component");
    line.textContent = `Most like: ${component} (${Math.round(100 * probability)} %)`;
    line.hidden = false;
  }
  const numbers = `score ${score.toPrecision(4)} · p-value ${Number(pValue.toPrecision(3))} · ${seconds.toFixed(1)} s`;
  card.querySelector(".numbers").textContent = numbers;
  const photo = card.querySelector(".photo");
  paint(photo, result.photo, result.view);
  photo.setAttribute("role", "img");
  photo.setAttribute("aria-label", `${file.name}: ${WORDS[verdict]}`);
  if (result.overlay) {
    const overlay = card.querySelector(".overlay");
    const toggle = card.querySelector(".switch");
    paint(overlay, result.overlay, result.view);
    overlay.setAttribute("role", "img");
    overlay.setAttribute("aria-label", `${file.name}, with heat where it looks unusual`);
    toggle.hidden = false;
    toggle.querySelector("input").addEventListener("change", ({target}) => (overlay.hidden = !target.checked));
    overlay.hidden = false;
  }
  card.querySelector(".waiting").hidden = true;
}

function fail(card, error) {
  card.dataset.verdict = "unreadable";
  counts.unreadable += 1;
  name(card, "unreadable");
  card.querySelector(".meaning").textContent = error.message;
  card.querySelector(".picture").hidden = true;
}

function name(card, verdict) {
  const line = card.querySelector(".verdict");
  line.classList.add(verdict);
  line.querySelector(".mark").classList.add(verdict);
  line.querySelector("strong").textContent = WORDS[verdict];
}

function paint(canvas, rgba, {width, height}) {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
}

function summarise() {
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const of = Object.entries(counts).filter(([, count]) => count);
  const said = of.map(([verdict, count]) => `${count} ${WORDS[verdict].toLowerCase()}`).join(", ");
  const left = waiting.length ? `, ${waiting.length} to go` : "";
  $("summary").textContent = total ? `${total} photo${total === 1 ? "" : "s"}: ${said}${left}` : "";
}

function clear() {
  waiting.length = 0;
  for (const verdict of Object.keys(counts)) counts[verdict] = 0;
  $("cards").replaceChildren();
  $("empty").hidden = false;
  $("line").hidden = true;
  summarise();
  $("chooser").focus();
}

function describe() {
  const percent = (rate) => `${Number((100 * rate).toPrecision(3))} %`;
  $("promise").textContent = about.numCalibration
    ? `Every photo is compared with ${about.numCalibration} normal photos kept aside. Of normal photos like those, on ` +
      `average at most ${percent(about.falseAlarmRate)} are rejected and at most ${percent(about.uncertainRate)} are ` +
      "not accepted. A rejected photo is unlike what is normal; whether that is damage is for you to judge."
    : "Nothing: no normal photos were left to compare with, and none is rejected.";
  for (const [term, text] of Object.entries(about.facts)) {
    const pair = document.createElement("div");
    pair.append(document.createElement("dt"), document.createElement("dd"));
    pair.firstChild.textContent = term;
    pair.lastChild.textContent = text;
    $("facts").append(pair);
  }
  for (const note of about.notes) {
    const item = document.createElement("li");
    item.textContent = note;
    $("notes").querySelector("ul").append(item);
  }
  $("notes").hidden = !about.notes.length;
  if (!about.heat) return;
  $("heat").hidden = false;
  const {ramp, opacity} = about.heat;
  const context = $("ramp").getContext("2d");
  const gradient = context.createLinearGradient(0, 0, 256, 0);
  ramp.forEach((colour, place) => {
    const share = place / (ramp.length - 1);
    gradient.addColorStop(share, `rgb(${colour.join(" ")} / ${opacity * share})`);
  });
  context.fillStyle = "#77797c";
  context.fillRect(0, 0, 256, 1);
  context.fillStyle = gradient;
  context.fillRect(0, 0, 256, 1);
}

for (const input of [$("camera"), $("chooser")]) {
  input.addEventListener("change", () => {
    add([...input.files]);
    input.value = "";
  });
}
$("clear").addEventListener("click", clear);
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  add([...event.dataTransfer.files]);
});

start().catch((error) => {
  $("progress").hidden = true;
  $("loading").classList.add("failed");
  $("state").textContent = `The model cannot be opened: ${error.message} Load the page again with a network.`;
  document.body.dataset.state = "failed";
});
