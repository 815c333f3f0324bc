// State of the page, and its rendering.

import { drawAttention, queryOf } from "./attention.js";
import { connectCamera } from "./camera.js";
import { saveImage, saveJson } from "./downloads.js";
import { placeMarkers, showMarkers } from "./markers.js";
import { markSelected, showClasses, showResults, showTiming, summary } from "./panel.js";
import { firstImage, openImage } from "./images.js";
import { centers, drawSegments, readMasks, resultAt } from "./segments.js";
import * as api from "./api.js";

// Threshold of requests; the slider filters the results above it. Segments compete for pixels, so theirs is
// higher.
const REQUEST_THRESHOLD = { "object-detection": 0.05, "image-segmentation": 0.5 };

const element = (id) => document.getElementById(id);

const state = {
  models: [],
  model: null, // entry of the selected model
  name: "image",
  bitmap: null,
  upload: null,
  scale: 1, // from pixels of the upload to pixels of the bitmap
  results: [], // sorted by score
  map: null, // segment of each pixel
  attention: null, // promise of the maps, once requested
  hidden: new Set(), // classes
  sliderModel: null, // model for which the slider was set
  selected: { hover: null, focus: null, click: null },
  controller: new AbortController(),
};

const isAboveThreshold = ({ score }) => score === null || score * 100 >= Number(element("threshold").value);
const isShown = (result) => isAboveThreshold(result) && !state.hidden.has(result.label);
const selected = () => state.selected.hover ?? state.selected.focus ?? state.selected.click;

async function take(file) {
  showError("");
  try {
    const { bitmap, upload } = await openImage(file);
    Object.assign(state, { bitmap, upload, name: file.name?.replace(/\.\w+$/, "") || "image" });
    state.scale = bitmap.width / (upload.width ?? bitmap.width);
  } catch (error) {
    showError(error.message);
    return;
  }
  showImage();
  await detect();
}

async function detect() {
  if (!state.bitmap || !state.model) return;
  state.controller.abort();
  state.controller = new AbortController();
  const { signal } = state.controller;
  Object.assign(state, { results: [], map: null, attention: null, hidden: new Set() });
  state.selected = { hover: null, focus: null, click: null };
  showAll();
  element("frame").classList.add("busy");
  element("summary").textContent = "Detecting …";
  element("panel").hidden = false;
  try {
    const model = await loadedModel(signal);
    const { entries, timing } = await api.predict(model.name, state.upload, REQUEST_THRESHOLD[model.task], signal);
    await setResults(entries);
    showTiming(element("timing"), timing);
  } catch (error) {
    if (signal.aborted) return;
    reportError(error);
  }
  element("frame").classList.remove("busy");
  showAll();
}

/** Returns the selected model once it is loaded, since its task is unknown before. */
async function loadedModel(signal) {
  if (!state.model.task) {
    element("summary").textContent = "Loading the model …";
    await api.predict(state.model.name, state.upload, 1, signal); // the first request loads it
    await fetchModels();
  }
  if (state.sliderModel !== state.model.name) setSlider();
  return state.model;
}

async function setResults(entries) {
  const results = entries
    .sort((a, b) => (b.score ?? 1) - (a.score ?? 1))
    .map((entry, index) => ({ ...entry, index, ...(entry.box && { box: scaled(entry.box, state.scale) }) }));
  if (results.some((result) => result.mask)) {
    state.map = await readMasks(results, state.bitmap.width, state.bitmap.height);
    centers(state.map, results.length).forEach((center, index) => (results[index].center = center));
  }
  state.results = results;
  placeMarkers(element("markers"), results, state.bitmap, select);
}

function scaled(box, scale) {
  return Object.fromEntries(Object.entries(box).map(([side, at]) => [side, Math.round(at * scale)]));
}

function select(result, how) {
  if (how === "click") result = result === state.selected.click ? null : result;
  state.selected[how] = result;
  showSelected();
}

function showImage() {
  const { bitmap } = state;
  const canvas = element("image");
  Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  element("frame").style.setProperty("--ratio", bitmap.width / bitmap.height);
  element("frame").hidden = false;
  element("drop").hidden = true;
}

function showAll() {
  const shown = state.results.filter(isShown);
  const { value } = element("threshold");
  element("threshold-value").textContent = `${value} %`;
  element("threshold").setAttribute("aria-valuetext", `${value} percent`);
  if (!element("frame").classList.contains("busy")) element("summary").textContent = summary(shown);
  showClasses(element("classes"), state.results, isAboveThreshold, state.hidden, toggleClass);
  element("classes-field").hidden = !state.results.length;
  showResults(element("results"), shown, selected(), select);
  for (const id of ["save-image", "save-json"]) element(id).disabled = !state.results.length;
  for (const how of Object.keys(state.selected)) if (!shown.includes(state.selected[how])) state.selected[how] = null;
  if (!state.results.length) element("markers").replaceChildren();
  element("hint").textContent = state.model?.attention && shown.length ? "· select one to see its attention" : "";
  showSelected();
}

function showSelected() {
  const current = selected();
  showMarkers(element("markers"), state.results, isShown, current);
  markSelected(element("results"), current);
  const masks = element("masks");
  masks.hidden = !state.map;
  if (state.map) drawSegments(masks, state.map, state.results, isShown, current);
  showAttention(current);
}

async function showAttention(current) {
  const frame = element("frame");
  if (!current || !state.model?.attention) {
    frame.classList.remove("attention-shown");
    return;
  }
  const { signal } = state.controller;
  state.attention ??= api.attention(state.model.name, state.upload, REQUEST_THRESHOLD[state.model.task] / 2, signal);
  try {
    const maps = await state.attention;
    const query = queryOf(current, maps.queries);
    if (current !== selected() || !query) return;
    drawAttention(element("attention"), maps, query);
    frame.classList.add("attention-shown");
  } catch (error) {
    if (!signal.aborted) reportError(error);
  }
}

function toggleClass(label) {
  if (!state.hidden.delete(label)) state.hidden.add(label);
  showAll();
}

function setSlider() {
  const slider = element("threshold");
  const lowest = Math.round(REQUEST_THRESHOLD[state.model.task] * 100);
  Object.assign(slider, { min: lowest, max: 99 });
  slider.value = Math.max(lowest, Math.round(state.model.default_threshold * 100));
  state.sliderModel = state.model.name;
}

async function fetchModels() {
  state.models = await api.listModels();
  const name = state.model?.name ?? state.models[0].name;
  state.model = state.models.find((model) => model.name === name) ?? state.models[0];
  const choice = element("model");
  choice.replaceChildren(...state.models.map(({ name }) => new Option(name, name, false, name === state.model.name)));
  element("model-choice").hidden = state.models.length < 2;
  element("token-form").hidden = true;
}

function reportError(error) {
  if (error.status === 401) element("token-form").hidden = false;
  else showError(error.message);
}

function showError(message) {
  element("error").textContent = message;
  element("error").hidden = !message;
}

function connect() {
  const file = element("file");
  file.addEventListener("change", () => {
    if (file.files[0]) take(file.files[0]);
    file.value = "";
  });
  element("choose").addEventListener("click", () => file.click());
  document.addEventListener("paste", (event) => takeFrom(event.clipboardData));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (!takeFrom(event.dataTransfer)) showError("That is not an image.");
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && (showError(""), select(state.selected.click, "click")));
  element("error").addEventListener("click", () => showError(""));
  element("threshold").addEventListener("input", showAll);
  element("model").addEventListener("change", () => {
    state.model = state.models.find((model) => model.name === element("model").value);
    detect();
  });
  element("frame").addEventListener("pointermove", (event) => selectAt(event, "hover"));
  element("frame").addEventListener("pointerleave", () => state.map && select(null, "hover"));
  element("frame").addEventListener("click", (event) => selectAt(event, "click"));
  element("save-json").addEventListener("click", () => saveJson(state.results.filter(isShown), state.name));
  element("save-image").addEventListener("click", () =>
    saveImage(state.bitmap, state.map && element("masks"), state.results.filter(isShown), `${state.name}-annotated`));
  element("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    api.setToken(element("token").value);
    fetchModels().then(detect, reportError);
  });
  connectCamera(element, take, showError);
}

/** Finds the segment below the pointer, since segments have no box to point at. */
function selectAt(event, how) {
  if (!state.map || (how === "hover" && event.pointerType !== "mouse") || event.target.closest(".marker")) return;
  const { left, top, width, height } = element("frame").getBoundingClientRect();
  const index = resultAt(state.map, (event.clientX - left) / width, (event.clientY - top) / height);
  const result = index < 0 || !isShown(state.results[index]) ? null : state.results[index];
  if (how === "click" || result !== state.selected.hover) select(result, how);
}

function takeFrom(transfer) {
  const file = firstImage(transfer);
  if (file) take(file);
  return Boolean(file);
}

connect();
fetchModels().catch(reportError);
