// Ties the page together: what the user does, and what is shown of it.

import { ask, useKey } from "./api.js";
import { takeImage } from "./camera.js";
import { Entries, keyOf } from "./entries.js";
import { KINDS, makeFile, save } from "./files.js";
import { SegmentList, percent, pixels } from "./list.js";
import { drawThumbnail } from "./picture.js";
import { Viewer } from "./viewer.js";

const NO_KEY = 401; // the status of an answer

const $ = (selector) => document.querySelector(selector);
const tabs = [...document.querySelectorAll("[role=tab]")];

const look = { least: 0, opacity: 0.4, lit: 0 };
let models = [];
let model = null;
let task = "panoptic";
let current = null; // the entry that is shown
let listed = null; // the result that the list holds
let wanted = 0; // percent: the score that the user has set, which may be below this result's
let picked = 0; // the segment that stays lit when the pointer is elsewhere

const entries = new Entries((entry) => {
  showThumbnail(entry);
  if (entry === current) showCurrent();
  else showDownloads();
});
const viewer = new Viewer($("#view"), {
  point: pointAt,
  pick,
  zoom: (scale) => ($("#zoom output").textContent = percent(scale)),
});
const list = new SegmentList($("#segments"), {
  light: (one) => light(one?.id ?? picked, { scroll: false }),
  pick(one) {
    picked = one.id;
    light(picked, { scroll: false });
    viewer.reveal(one);
  },
  toggle: setShown,
});

const request = () => ({ model: model?.name, task });
const result = () => current?.results.get(keyOf(request()));
const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

// Images come in.

async function addFiles(files) {
  const kept = [...files]; // the browser empties the list after the event
  if (!model) await connect();
  if (model) for (const file of kept) addImage(file.name || "image", async () => file);
}

function addImage(name, load) {
  const entry = entries.add(name, load);
  const item = make("li");
  const show = make("button", { type: "button", title: name, onclick: () => select(entry) });
  show.setAttribute("aria-label", name);
  show.append(make("canvas", { width: 96, height: 96 }));
  const drop = make("button", { type: "button", className: "remove", textContent: "×" });
  drop.setAttribute("aria-label", `Remove ${name}`);
  drop.onclick = () => remove(entry);
  item.append(show, drop);
  entry.item = item;
  $("#strip ul").append(item);
  document.body.classList.remove("empty");
  if (!current || current.results.size || current.problems.size) select(entry);
  showDownloads();
}

function remove(entry) {
  const at = entries.all.indexOf(entry);
  entries.remove(entry);
  entry.item.remove();
  if (entry !== current) return showDownloads();
  select(entries.all[Math.min(at, entries.all.length - 1)] ?? null);
  document.body.classList.toggle("empty", !current);
  (current ? current.item.firstChild : $("[data-action=choose]")).focus();
}

function select(entry) {
  current = entry;
  picked = look.lit = 0;
  for (const { item } of entries.all) {
    item.classList.toggle("current", item === entry?.item);
    item.firstChild.setAttribute("aria-pressed", item === entry?.item);
  }
  entries.ask(request(), entry);
  showCurrent();
}

// What is shown.

function showCurrent() {
  const found = result();
  const problem = current?.problems.get(keyOf(request()));
  const progress = current?.progress;
  $("#view").setAttribute("aria-label", current ? `Image ${current.name}` : "Image");
  viewer.show(current?.copies ?? [], found);
  $("#progress").hidden = Boolean(found || problem);
  if (progress?.fraction == null) $("#progress").removeAttribute("value");
  else $("#progress").value = progress.fraction;
  $("#problem").hidden = !problem;
  $("#problem h2").textContent = problem?.title ?? (problem && "No result");
  $("#problem p").textContent = problem?.message ?? "";
  for (const part of [".sliders", ".finder"]) $(part).inert = !found;
  if (found) say(summary(found));
  else if (problem) say("");
  else say(`${progress?.phase ?? "Waiting"} …`);
  if (found !== listed) {
    listed = found;
    list.fill(found);
    const scores = (found?.found ?? []).map(({ score }) => score);
    $("#least").min = scores.length ? Math.floor(100 * Math.min(...scores)) : 0;
    $("#least").value = wanted;
    readSliders();
    arrange();
  }
  restyle();
}

const say = (text) => {
  if ($("#status").textContent !== text) $("#status").textContent = text;
};

function summary({ found }) {
  const counts = new Map();
  for (const { label, is_thing } of found) {
    counts.set(label, (counts.get(label) ?? 0) + Number(is_thing)); // stuff is not counted
  }
  const parts = [...counts]
    .sort((a, b) => b[1] - a[1])
    .map(([label, count]) => (count ? `${count} ${label}` : label));
  if (!parts.length) return "Nothing found";
  const rest = parts.length > 6 ? `, and ${parts.length - 6} more classes` : "";
  return parts.slice(0, 6).join(", ") + rest;
}

function showThumbnail({ item, copies, progress, problems, results }) {
  if (!item) return; // it was not shown yet
  const key = keyOf(request());
  drawThumbnail(item.querySelector("canvas"), copies);
  item.classList.toggle("busy", Boolean(progress));
  item.classList.toggle("failed", problems.has(key) && !results.has(key));
}

function restyle() {
  const found = result();
  viewer.restyle({ ...look });
  if (found) list.mark(found, look.least);
  showDownloads();
}

function readSliders() {
  look.least = $("#least").value / 100;
  look.opacity = $("#opacity").value / 100;
  $("#least-shown").textContent = percent(look.least);
  $("#opacity-shown").textContent = percent(look.opacity);
}

function arrange() {
  const count = list.arrange($("#sort").value, $("#filter").value);
  $("#nothing").hidden = count > 0 || !$("#filter").value;
}

function setShown(ids, shown) {
  const { hidden } = result();
  for (const id of ids) shown ? hidden.delete(id) : hidden.add(id);
  restyle();
}

// One is lit: under the pointer, in the list, or picked by a tap.

function light(id, { scroll }) {
  if (id !== look.lit) {
    look.lit = id;
    viewer.restyle({ ...look });
  }
  list.light(id, { scroll });
}

function pointAt(one, event) {
  if (event.pointerType === "touch") return;
  light(one?.id ?? picked, { scroll: Boolean(one) });
  showTip(one, event);
}

function pick(one, event) {
  picked = one?.id ?? 0;
  light(picked, { scroll: true });
  showTip(one, event);
}

function showTip(one, { clientX, clientY }) {
  const tip = $("#tip");
  tip.hidden = !one;
  if (!one) return;
  const facts = `${percent(one.score)} · ${pixels(one.area)}`;
  tip.replaceChildren(make("b", { textContent: one.label }), ` ${facts}`);
  const { left, top, width } = $("#stage").getBoundingClientRect();
  const x = Math.min(clientX - left + 14, width - tip.offsetWidth - 8);
  tip.style.transform = `translate(${x}px, ${Math.max(8, clientY - top - 40)}px)`;
}

// Files go out.

function showDownloads() {
  const key = keyOf(request());
  const found = result();
  const ready = entries.all.filter(({ results }) => results.has(key));
  for (const button of document.querySelectorAll("#downloads button")) {
    const { kind, all } = button;
    button.hidden = all && entries.all.length < 2;
    button.disabled = all ? ready.length < 1 : !found || Boolean(kind.ids && !found.ids);
  }
}

function addDownload(kind, all) {
  const title = all ? `${kind.title} of all images` : kind.title;
  const button = make("button", { type: "button", textContent: title, kind, all });
  button.dataset.kind = all ? `all-${kind.key}` : kind.key;
  button.onclick = async () => {
    const key = keyOf(request());
    const chosen = (all ? entries.all : [current]).filter(({ results }) => results.has(key));
    const sources = chosen.map((entry) => ({ ...entry, result: entry.results.get(key) }));
    const stem = all ? "images" : current.name.replace(/\.[^.]*$/, "");
    button.setAttribute("aria-busy", "true");
    try {
      save(await makeFile(kind, sources, look), stem + kind.suffix);
    } catch (error) {
      say(`${title} could not be made: ${error.message}`);
    }
    button.removeAttribute("aria-busy");
  };
  $("#downloads .buttons").append(button);
}

// The page begins.

function choose(next) {
  task = next;
  for (const tab of tabs) {
    const chosen = tab.dataset.task === task;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen) $("#panel").setAttribute("aria-labelledby", tab.id);
  }
  picked = look.lit = 0;
  if (current) select(current);
  entries.all.forEach(showThumbnail);
}

function chooseModel(name) {
  model = models.find((one) => one.name === name);
  const boxesOnly = model.task === "detection";
  for (const tab of tabs) tab.disabled = boxesOnly && tab.dataset.task !== "boxes";
  choose(boxesOnly ? "boxes" : task);
}

const actions = {
  choose: () => $("#file").click(),
  camera: async () => {
    const image = await takeImage($("#camera"));
    if (image) addFiles([new File([image], "camera.jpg")]);
  },
  sample: ({ dataset: { name } }) => addImage(name, () => ask("GET", `samples/${name}`)),
  in: () => viewer.zoom(true),
  out: () => viewer.zoom(false),
  fit: () => viewer.fit(),
  all: () => setShown(list.listed, true),
  none: () => setShown(list.listed, false),
  again: () => {
    entries.retry(current, keyOf(request()));
    showCurrent();
  },
};

function start() {
  for (const kind of KINDS) addDownload(kind, false);
  for (const kind of KINDS.filter(({ join }) => join)) addDownload(kind, true);
  document.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    actions[button?.dataset.action]?.(button);
  });
  $("#file").onchange = ({ target }) => {
    addFiles(target.files);
    target.value = "";
  };
  document.addEventListener("paste", ({ clipboardData }) => addFiles(clipboardData.files));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.toggle("dropping", kind === "dragover");
      if (kind === "drop") addFiles(event.dataTransfer.files);
    });
  }
  for (const id of ["#least", "#opacity"]) {
    $(id).oninput = ({ target }) => {
      if (target.id === "least") wanted = target.value;
      readSliders();
      restyle();
    };
  }
  $("#filter").oninput = $("#sort").onchange = arrange;
  $("#model").onchange = ({ target }) => chooseModel(target.value);
  tabs.forEach((tab) => (tab.onclick = () => choose(tab.dataset.task)));
  $("[role=tablist]").onkeydown = ({ key }) => {
    const open = tabs.filter(({ disabled }) => !disabled);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (!step) return;
    const next = open.at((open.findIndex((tab) => tab.dataset.task === task) + step) % open.length);
    choose(next.dataset.task);
    next.focus();
  };
  $("#key").onsubmit = (event) => {
    event.preventDefault();
    useKey($("#key input").value);
    connect();
  };
  readSliders();
  connect();
}

/** Ask the server what it has. */
async function connect() {
  $("#service-problem").hidden = $("#key").hidden = true;
  try {
    const answer = JSON.parse(await (await ask("GET", "v1/models")).text());
    models = answer.models;
    const options = models.map(({ name }) => make("option", { value: name, textContent: name }));
    $("#model").replaceChildren(...options);
    $("#model").value = answer.default;
    chooseModel(answer.default);
    $("#samples").hidden = false;
  } catch (error) {
    $("#service-problem").textContent = `${error.title ?? "No models"}. ${error.message}`;
    $("#service-problem").hidden = false;
    $("#key").hidden = error.status !== NO_KEY;
  }
}

start();
