// The page: what it knows, and how a change of that is shown.

import { drawAttention, queryOf } from "./attention.js";
import { wireCamera } from "./camera.js";
import { saveJson, savePicture } from "./downloads.js";
import { placeMarkers, showMarkers } from "./markers.js";
import { markChosen, showClasses, showFindings, showTiming, summary } from "./panel.js";
import { openPicture, pictureIn } from "./images.js";
import { drawSegments, findingAt, middles, readMasks } from "./segments.js";
import * as service from "./api.js";

// The service is asked at these thresholds, below any that are useful; the slider filters from there. Segments compete
// for pixels, so theirs must not be too low.
const ASKED = { "object-detection": 0.05, "image-segmentation": 0.5 };

const element = (id) => document.getElementById(id);

const state = {
  models: [],
  model: null, // the entry of the chosen model
  name: "picture",
  bitmap: null,
  sent: null,
  scale: 1, // from pixels of what was sent to pixels of the bitmap
  findings: [], // the surest first
  map: null, // whose pixel is whose, for segments
  attention: null, // a promise of the maps, once asked for
  hidden: new Set(), // labels
  sliderOf: null, // the model for which the slider was set
  chosen: { hover: null, focus: null, click: null },
  asking: new AbortController(),
};

const isSure = ({ score }) => score === null || score * 100 >= Number(element("threshold").value);
const isShown = (finding) => isSure(finding) && !state.hidden.has(finding.label);
const chosen = () => state.chosen.hover ?? state.chosen.focus ?? state.chosen.click;

async function take(file) {
  tell("");
  try {
    const { bitmap, sent } = await openPicture(file);
    Object.assign(state, { bitmap, sent, name: file.name?.replace(/\.\w+$/, "") || "picture" });
    state.scale = bitmap.width / (sent.width ?? bitmap.width);
  } catch (error) {
    tell(error.message);
    return;
  }
  showPicture();
  await ask();
}

async function ask() {
  if (!state.bitmap || !state.model) return;
  state.asking.abort();
  state.asking = new AbortController();
  const { signal } = state.asking;
  Object.assign(state, { findings: [], map: null, attention: null, hidden: new Set() });
  state.chosen = { hover: null, focus: null, click: null };
  showAll();
  element("frame").classList.add("busy");
  element("summary").textContent = "Looking …";
  element("panel").hidden = false;
  try {
    const model = await loaded(signal);
    const { entries, timing } = await service.find(model.name, state.sent, ASKED[model.task], signal);
    await keep(entries);
    showTiming(element("timing"), timing);
  } catch (error) {
    if (signal.aborted) return;
    report(error);
  }
  element("frame").classList.remove("busy");
  showAll();
}

/** The chosen model once it is loaded: only then is its task known. */
async function loaded(signal) {
  if (!state.model.task) {
    element("summary").textContent = "The model is being loaded …";
    await service.find(state.model.name, state.sent, 1, signal); // the first request waits for that
    await fetchModels();
  }
  if (state.sliderOf !== state.model.name) setSlider();
  return state.model;
}

async function keep(entries) {
  const findings = entries
    .sort((a, b) => (b.score ?? 1) - (a.score ?? 1))
    .map((entry, index) => ({ ...entry, index, ...(entry.box && { box: scaled(entry.box, state.scale) }) }));
  if (findings.some((finding) => finding.mask)) {
    state.map = await readMasks(findings, state.bitmap.width, state.bitmap.height);
    middles(state.map, findings.length).forEach((middle, index) => (findings[index].middle = middle));
  }
  state.findings = findings;
  placeMarkers(element("markers"), findings, state.bitmap, choose);
}

function scaled(box, scale) {
  return Object.fromEntries(Object.entries(box).map(([side, at]) => [side, Math.round(at * scale)]));
}

function choose(finding, how) {
  if (how === "click") finding = finding === state.chosen.click ? null : finding;
  state.chosen[how] = finding;
  showChosen();
}

function showPicture() {
  const { bitmap } = state;
  const canvas = element("picture");
  Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  element("frame").style.setProperty("--ratio", bitmap.width / bitmap.height);
  element("frame").hidden = false;
  element("drop").hidden = true;
}

function showAll() {
  const shown = state.findings.filter(isShown);
  const { value } = element("threshold");
  element("threshold-value").textContent = `${value} %`;
  element("threshold").setAttribute("aria-valuetext", `${value} percent`);
  if (!element("frame").classList.contains("busy")) element("summary").textContent = summary(shown);
  showClasses(element("classes"), state.findings, isSure, state.hidden, toggleClass);
  element("classes-field").hidden = !state.findings.length;
  showFindings(element("findings"), shown, chosen(), choose);
  for (const id of ["save-picture", "save-json"]) element(id).disabled = !state.findings.length;
  for (const how of Object.keys(state.chosen)) if (!shown.includes(state.chosen[how])) state.chosen[how] = null;
  if (!state.findings.length) element("markers").replaceChildren();
  element("hint").textContent = state.model?.attention && shown.length ? "· choose one to see where the model looked" : "";
  showChosen();
}

function showChosen() {
  const current = chosen();
  showMarkers(element("markers"), state.findings, isShown, current);
  markChosen(element("findings"), current);
  const masks = element("masks");
  masks.hidden = !state.map;
  if (state.map) drawSegments(masks, state.map, state.findings, isShown, current);
  showAttention(current);
}

async function showAttention(current) {
  const frame = element("frame");
  if (!current || !state.model?.attention) {
    frame.classList.remove("looking");
    return;
  }
  const { signal } = state.asking;
  state.attention ??= service.attend(state.model.name, state.sent, ASKED[state.model.task] / 2, signal);
  try {
    const maps = await state.attention;
    const query = queryOf(current, maps.queries);
    if (current !== chosen() || !query) return;
    drawAttention(element("attention"), maps, query);
    frame.classList.add("looking");
  } catch (error) {
    if (!signal.aborted) report(error);
  }
}

function toggleClass(label) {
  if (!state.hidden.delete(label)) state.hidden.add(label);
  showAll();
}

function setSlider() {
  const slider = element("threshold");
  const lowest = Math.round(ASKED[state.model.task] * 100);
  Object.assign(slider, { min: lowest, max: 99 });
  slider.value = Math.max(lowest, Math.round(state.model.default_threshold * 100));
  state.sliderOf = state.model.name;
}

async function fetchModels() {
  state.models = await service.listModels();
  const name = state.model?.name ?? state.models[0].name;
  state.model = state.models.find((model) => model.name === name) ?? state.models[0];
  const choice = element("model");
  choice.replaceChildren(...state.models.map(({ name }) => new Option(name, name, false, name === state.model.name)));
  element("model-choice").hidden = state.models.length < 2;
  element("token-form").hidden = true;
}

function report(error) {
  if (error.status === 401) element("token-form").hidden = false;
  else tell(error.message);
}

function tell(problem) {
  element("problem").textContent = problem;
  element("problem").hidden = !problem;
}

function wire() {
  const file = element("file");
  file.onchange = () => {
    if (file.files[0]) take(file.files[0]);
    file.value = "";
  };
  element("choose").onclick = () => file.click();
  document.onpaste = (event) => takeFrom(event.clipboardData);
  document.ondragover = (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  };
  document.ondragleave = (event) => event.relatedTarget || document.body.classList.remove("dropping");
  document.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (!takeFrom(event.dataTransfer)) tell("That is not a picture.");
  };
  document.onkeydown = (event) => event.key === "Escape" && (tell(""), choose(state.chosen.click, "click"));
  element("problem").onclick = () => tell("");
  element("threshold").oninput = showAll;
  element("model").onchange = () => {
    state.model = state.models.find((model) => model.name === element("model").value);
    ask();
  };
  element("frame").onpointermove = (event) => pointAt(event, "hover");
  element("frame").onpointerleave = () => state.map && choose(null, "hover");
  element("frame").onclick = (event) => pointAt(event, "click");
  element("save-json").onclick = () => saveJson(state.findings.filter(isShown), state.name);
  element("save-picture").onclick = () =>
    savePicture(state.bitmap, state.map && element("masks"), state.findings.filter(isShown), `${state.name}-seen`);
  element("token-form").onsubmit = (event) => {
    event.preventDefault();
    service.useToken(element("token").value);
    fetchModels().then(ask, report);
  };
  wireCamera(element, take, tell);
}

/** Segments have no box to point at: the pixel below says whose it is. */
function pointAt(event, how) {
  if (!state.map || (how === "hover" && event.pointerType !== "mouse") || event.target.closest(".marker")) return;
  const { left, top, width, height } = element("frame").getBoundingClientRect();
  const index = findingAt(state.map, (event.clientX - left) / width, (event.clientY - top) / height);
  const finding = index < 0 || !isShown(state.findings[index]) ? null : state.findings[index];
  if (how === "click" || finding !== state.chosen.hover) choose(finding, how);
}

function takeFrom(transfer) {
  const file = pictureIn(transfer);
  if (file) take(file);
  return Boolean(file);
}

wire();
fetchModels().catch(report);
