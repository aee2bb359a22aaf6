"use strict";

// Parts that everything is made of. Text reaches the page as text nodes only, so markup in it stays text.

const DATA = JSON.parse(document.getElementById("data").textContent);
const NUM_COLORS = 8;
const SVG = "http://www.w3.org/2000/svg";
const HIDDEN = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff]" +
  "|[\\ud800-\\udbff](?![\\udc00-\\udfff])|(?<![\\ud800-\\udbff])[\\udc00-\\udfff]", "g");

/** Return the text with control characters, direction marks and half characters spelled out. */
function spellOut(text) {
  return text.replace(HIDDEN, (character) =>
    `⟨U+${character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) {
      node.append(child instanceof Node ? child : spellOut(String(child)));
    }
  }
  return node;
}

/** Return a new HTML element. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return a new SVG element. */
function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Return a number for reading: four digits. */
function format(value) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

function percent(value) {
  return value === null || value === undefined ? "–" : (100 * value).toFixed(1);
}

function plural(count, word) {
  return `${count.toLocaleString("en-US")} ${word}${count === 1 ? "" : "s"}`;
}

/** Return a table in a box that scrolls; `rows` hold strings, numbers or nodes, the first of each is its header. */
function table(caption, head, rows, numeric = []) {
  const cell = (value, column) => column === 0
    ? el("th", { scope: "row" }, value)
    : el("td", { class: numeric.includes(column) ? "number" : "value" }, value);
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    el("table", {},
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, head.map((name, column) =>
        el("th", { scope: "col", class: numeric.includes(column) ? "number" : null }, name)))),
      el("tbody", {}, rows.map(({ cells, kind }) => el("tr", { class: kind }, cells.map(cell))))));
}

/** Return a run's name with its color. */
function runName(index) {
  return el("span", {}, el("span", { class: `swatch run-${index % NUM_COLORS}`, "aria-hidden": "true" }),
    ` ${DATA.runs[index].name}`);
}

function runLabel(run) {
  const seed = run.seed === null ? "" : `seed ${run.seed}`;
  const details = [run.method, seed].filter(Boolean).join(", ");
  return details ? `${run.name} (${details})` : run.name;
}

function section(id) {
  return document.getElementById(id);
}
