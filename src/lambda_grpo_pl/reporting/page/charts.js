// Line charts: all runs in one, a color for each run, a dash for each metric. Arrow keys or the pointer read values.

const BOX = { width: 440, height: 250, left: 56, right: 14, top: 12, bottom: 38 };
const DASHES = [null, "7 4", "2 3"];
const state = { shown: new Set(DATA.runs.keys()), smoothing: 0.8 };
const charts = [];

/** Return round numbers that cover a range, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const magnitude = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * magnitude).find((each) => each >= rough);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) found.push(index * step);
  return found;
}

/** Return the smallest range around all values, with a margin; never empty. */
function range(values, margin) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value === null) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return [0, 1];
  if (high - low < 1e-12 + 1e-9 * Math.abs(high)) {
    const around = Math.abs(high) * 0.1 || 1;
    return [low - around, high + around];
  }
  return [low - margin * (high - low), high + margin * (high - low)];
}

/** Return the exponential moving average of values; short series stay as they are. */
function smooth(values, strength) {
  if (!strength || values.length < 20) return values;
  let mean = null;
  return values.map((value) => {
    if (value === null) return mean;
    mean = mean === null ? value : strength * mean + (1 - strength) * value;
    return mean;
  });
}

function path(xs, ys, place) {
  let started = false, text = "";
  xs.forEach((x, index) => {
    if (ys[index] === null) { started = false; return; }
    const [left, top] = place(x, ys[index]);
    text += `${started ? "L" : "M"}${left.toFixed(1)} ${top.toFixed(1)}`;
    started = true;
  });
  return text;
}

function drawAxes(svg, xRange, yRange, place, xLabel) {
  const { width, height, left, right, top, bottom } = BOX;
  for (const value of ticks(...yRange, 5)) {
    const y = place(xRange[0], value)[1];
    svg.append(draw("line", { class: "axis", x1: left, x2: width - right, y1: y, y2: y }),
      draw("text", { class: "tick", x: left - 6, y: y + 4, "text-anchor": "end" }, format(Number(value.toPrecision(10)))));
  }
  for (const value of ticks(...xRange, 5)) {
    svg.append(draw("text", { class: "tick", x: place(value, yRange[0])[0], y: height - bottom + 16,
      "text-anchor": "middle" }, format(Number(value.toPrecision(10)))));
  }
  svg.append(draw("text", { class: "tick", x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, xLabel));
}

function drawLine(svg, line, place, isSmoothed, withRaw) {
  const color = line.run % NUM_COLORS;
  const ys = isSmoothed ? smooth(line.ys, state.smoothing) : line.ys;
  if (ys !== line.ys && withRaw) svg.append(draw("path", { class: `raw run-${color}`, d: path(line.xs, line.ys, place) }));
  svg.append(draw("path", { class: `curve run-${color}`, d: path(line.xs, ys, place), "stroke-dasharray": line.dash }));
  line.xs.forEach((x, index) => {
    if (line.lows && line.lows[index] !== null) {
      const [left, low] = place(x, line.lows[index]);
      svg.append(draw("line", { class: `whisker run-${color}`, x1: left, x2: left, y1: low,
        y2: place(x, line.highs[index])[1] }));
    }
    if ((line.dots || line.xs.length < 20) && ys[index] !== null) {
      const [left, y] = place(x, ys[index]);
      svg.append(draw("circle", { class: `dot-${color}`, cx: left, cy: y, r: 3 }));
    }
  });
}

function nearest(xs, x) {
  let best = 0;
  xs.forEach((each, index) => { if (Math.abs(each - x) < Math.abs(xs[best] - x)) best = index; });
  return best;
}

/**
 * Return a figure and its `draw` function.
 *
 * options: title, meaning, lines() → [{run, label, dash, xs, ys, lows, highs, dots}], xLabel, rule (a horizontal line),
 * bounds() → values that the vertical range covers, isSmoothed, isWide.
 */
function makeChart(options) {
  const svg = draw("svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img", tabindex: 0 });
  const readout = el("div", { class: "readout" });
  const figure = el("figure", { class: options.isWide ? "wide" : null },
    el("figcaption", {}, options.title, options.meaning ? el("span", { class: "quiet" }, options.meaning) : null),
    svg, readout);
  let lines = [], xs = [], toLeft = null, cursor = null;

  function read(index) {
    cursor?.remove();
    cursor = null;
    svg.dataset.at = index ?? "";
    if (index === null) { showKey(); return; }
    const left = toLeft(xs[index]);
    cursor = draw("line", { class: "cursor", x1: left, x2: left, y1: BOX.top, y2: BOX.height - BOX.bottom });
    svg.append(cursor);
    const items = lines.map((line) => {
      const at = nearest(line.xs, xs[index]);
      return el("span", {}, el("span", { class: `swatch run-${line.run % NUM_COLORS}` }),
        `${DATA.runs[line.run].name}${line.label ? ` ${line.label}` : ""} ${format(line.ys[at])}`);
    });
    readout.replaceChildren(el("span", {}, `${options.xLabel || "update"} ${format(xs[index])}`), ...items);
  }

  function showKey() {
    const names = new Map(lines.filter((line) => line.label).map((line) => [line.label, line.dash]));
    const key = [...names].map(([label, dash]) => el("span", {},
      draw("svg", { viewBox: "0 0 26 6", width: 26, height: 6, "aria-hidden": "true" },
        draw("line", { class: "cursor", x1: 0, x2: 26, y1: 3, y2: 3, "stroke-width": 2, "stroke-dasharray": dash })),
      label));
    readout.replaceChildren(...key);
  }

  function redraw() {
    lines = options.lines().filter((line) => state.shown.has(line.run) && line.xs.length);
    xs = [...new Set(lines.flatMap((line) => line.xs))].sort((a, b) => a - b);
    const heights = options.bounds ? options.bounds() : lines.flatMap((line) =>
      [line.ys, line.lows || [], line.highs || []].flat());
    const xRange = range(options.widths ? options.widths() : xs, 0);
    const yRange = range(options.rule === undefined ? heights : [...heights, options.rule], 0.05);
    const { width, height, left, right, top, bottom } = BOX;
    toLeft = (x) => left + (x - xRange[0]) / (xRange[1] - xRange[0]) * (width - left - right);
    const place = (x, y) => [toLeft(x), height - bottom - (y - yRange[0]) / (yRange[1] - yRange[0]) * (height - top - bottom)];
    svg.replaceChildren();
    drawAxes(svg, xRange, yRange, place, options.xLabel || "update");
    if (options.rule !== undefined) {
      const y = place(0, options.rule)[1];
      svg.append(draw("line", { class: "rule", x1: left, x2: width - right, y1: y, y2: y }));
    }
    for (const line of lines) drawLine(svg, line, place, options.isSmoothed, !lines.some((each) => each.label));
    const last = lines.map((line) => `${DATA.runs[line.run].name} ${line.label || ""} ${format(line.ys.at(-1))}`);
    svg.setAttribute("aria-label", `${options.title}. Last values: ${last.join("; ") || "none"}. Arrow keys read others.`);
    read(null);
  }

  svg.addEventListener("pointermove", (event) => {
    if (!xs.length) return;
    const bounds = svg.getBoundingClientRect();
    const left = (event.clientX - bounds.left) / bounds.width * BOX.width;
    read(nearest(xs.map(toLeft), left));
  });
  svg.addEventListener("pointerleave", () => read(null));
  svg.addEventListener("blur", () => read(null));
  svg.addEventListener("keydown", (event) => {
    const at = svg.dataset.at === "" ? null : Number(svg.dataset.at);
    const last = xs.length - 1;
    const moves = { ArrowRight: Math.min(last, (at ?? -1) + 1), ArrowLeft: Math.max(0, (at ?? xs.length) - 1),
      Home: 0, End: last, Escape: null };
    if (last < 0 || !(event.key in moves)) return;
    event.preventDefault();
    read(moves[event.key]);
  });
  readout.setAttribute("aria-live", "polite");
  const chart = { figure, draw: redraw };
  charts.push(chart);
  return chart;
}

/** Return the lines of metrics, a dash for each metric and a color for each run. */
function metricLines(metrics) {
  return DATA.runs.flatMap((run, index) => Object.entries(metrics).flatMap(([name, label], position) => {
    const series = run.metrics[name];
    return series ? [{ run: index, label, dash: DASHES[position], xs: run.axes[series.axis], ys: series.values }] : [];
  }));
}

/** Return a chart of metrics: name → label, which is empty for a metric alone. */
function metricChart(title, meaning, metrics, options = {}) {
  const averaged = Math.max(1, ...DATA.runs.flatMap((run) =>
    Object.keys(metrics).map((name) => run.metrics[name]?.averaged ?? 1)));
  const note = averaged > 1 ? ` (each point averages up to ${averaged} rows)` : "";
  return makeChart({ title, meaning: meaning + note, lines: () => metricLines(metrics), isSmoothed: true, ...options });
}
