// What each run is, the settings in which runs differ, warnings of guards; then the charts over updates.

const OVERVIEW = [
  ["Reward", "mean total reward of the training responses", { "reward/mean": "" }],
  ["Accuracy", "share of correct training responses", { "reward/accuracy": "" }],
  ["Length by correctness", "mean length in tokens",
    { "preference/length_correct": "correct", "preference/length_incorrect": "incorrect" }],
  ["λ", "beside the λ at which f equals GRPO's to first order",
    { "preference/lambda": "λ", "preference/grpo_lambda": "GRPO-equivalent λ" }, { isSmoothed: false, rule: 0 }],
  ["Gradient share by length", "thirds of the responses of a group, by length",
    { "preference/weight_short": "short", "preference/weight_middle": "middle", "preference/weight_long": "long" },
    { rule: 1 / 3 }],
  ["Entropy", "nats per token; a collapse to 0 ends exploration", { "policy/entropy": "" }],
  ["Gradient norm", "before clipping", { "policy/gradient_norm": "" }],
  ["Truncated responses", "share of the training responses; keep it near 0", { "response/truncated": "" }],
];
const UNDRAWN = /(_low|_high|\/num_questions|\/num_samples)$/;

/** Return a dotted key that may break after its dots. */
function breakable(key) {
  return el("span", {}, key.split(/(?<=\.)/).flatMap((part) => [part, el("wbr")]));
}

function drawRuns() {
  const place = section("runs");
  const facts = [
    ["method", (run) => run.method || "unknown"],
    ["model", (run) => run.model || "unknown"],
    ["seed", (run) => run.seed ?? "unknown"],
    ["updates", (run) => run.updates],
    ["folder", (run) => run.folder],
  ].map(([name, read]) => ({ cells: [name, ...DATA.runs.map(read)] }));
  const asRow = ({ key, values, differs }) => ({ cells: [breakable(key), ...values.map((value) => value ?? "null")],
    kind: differs ? "differs" : null });
  const packages = [...new Set(DATA.runs.flatMap((run) => Object.keys(run.versions)))];
  const versions = packages.map((name) => ({ cells: [name, ...DATA.runs.map((run) => run.versions[name] ?? "unknown")] }));
  const head = () => ["", ...DATA.runs.map((run, index) => runName(index))];
  const differing = DATA.settings.filter((row) => row.differs && row.isKey);
  const shared = DATA.settings.filter((row) => !row.differs), other = DATA.settings.filter((row) => row.differs && !row.isKey);
  place.append(table(DATA.runs.length > 1 ? "What each run is; ≠ marks settings in which the runs differ" : "What the run is",
    head(), [...facts, ...differing.map(asRow), ...versions]));
  addDetails(place, DATA.runs.length > 1 ? "Key settings that all runs share" : "Key settings", ["setting", "value"],
    shared.map(({ key, values }) => ({ cells: [breakable(key), values.find((value) => value !== "unknown") ?? "null"] })));
  addDetails(place, "Other settings in which the runs differ", head(), other.map(asRow));
  const notes = DATA.runs.flatMap((run) => [...run.notes, run.lens].filter(Boolean).map((note) => `${run.name}: ${note}`));
  if (notes.length) place.append(el("h3", {}, "Notes"), el("ul", { class: "notes" }, notes.map((note) => el("li", {}, note))));
  const guards = DATA.runs.flatMap((run, index) => run.guards.map((guard) =>
    ({ cells: [runName(index), guard.update, guard.guard, guard.message] })));
  if (guards.length) {
    place.append(el("h3", {}, "Warnings of guards"),
      table("Warnings of guards", ["run", "update", "guard", "warning"], guards, [1]));
  }
}

function addDetails(place, title, head, rows) {
  if (rows.length) place.append(el("details", {}, el("summary", {}, `${title} (${rows.length})`), table(title, head, rows)));
}

/** Return the box that chooses runs and smoothing for all charts. */
function makeControls() {
  const boxes = DATA.runs.map((run, index) => el("label", {},
    el("input", { type: "checkbox", checked: true, name: `run-${index}`, onchange: (event) => {
      state.shown[event.target.checked ? "add" : "delete"](index);
      redrawAll();
    } }),
    el("span", { class: `swatch run-${index % NUM_COLORS}`, "aria-hidden": "true" }), runLabel(run)));
  const output = el("output", { for: "smoothing" }, state.smoothing.toFixed(2));
  const slider = el("input", { type: "range", id: "smoothing", min: 0, max: 0.95, step: 0.05, value: state.smoothing,
    oninput: (event) => {
      state.smoothing = Number(event.target.value);
      output.textContent = state.smoothing ? state.smoothing.toFixed(2) : "off";
      redrawAll();
    } });
  return el("div", { class: "controls" }, el("fieldset", {}, el("legend", {}, "Runs shown"), boxes),
    el("label", { for: "smoothing" }, "Smoothing ", slider, output));
}

function redrawAll() {
  for (const chart of charts) if (chart.figure.isConnected && chart.figure.closest("details:not([open])") === null) chart.draw();
}

function drawCharts() {
  const place = section("charts");
  if (!DATA.sections.length) {
    place.append(el("p", {}, "No run has metrics."));
    return;
  }
  place.append(makeControls());
  const drawn = OVERVIEW.map(([title, meaning, metrics, options]) => metricChart(title, meaning, metrics, options))
    .filter((chart, index) => metricLines(OVERVIEW[index][2]).length);
  place.append(el("div", { class: "grid" }, drawn.map((chart) => chart.figure)));
  drawn.forEach((chart) => chart.draw());
  place.append(el("h3", {}, "All metrics"));
  for (const { name, metrics } of DATA.sections) place.append(makeSection(name, metrics));
}

/** Return a section that draws its charts when it opens. */
function makeSection(name, metrics) {
  const title = name.replace(/^\d+ /, "");
  const chosen = metrics.filter((metric) => !UNDRAWN.test(metric.name));
  const details = el("details", { class: "metrics" },
    el("summary", {}, `${title[0].toUpperCase()}${title.slice(1)} `, el("span", { class: "quiet" }, plural(chosen.length, "chart"))));
  let isFilled = false;
  details.addEventListener("toggle", () => {
    if (!details.open) return;
    if (!isFilled) {
      if (chosen.some((metric) => metric.name.startsWith("lens/"))) details.append(tabulateLens(chosen));
      const made = chosen.map((metric) => metricChart(metric.name, metric.meaning, { [metric.name]: "" },
        { isSmoothed: !/^(val\/|preference\/lambda$)/.test(metric.name) }));
      details.append(el("div", { class: "grid" }, made.map((chart) => chart.figure)));
      isFilled = true;
    }
    redrawAll();
  });
  return details;
}

/** Return the lens's means over updates: methods by measures, for each run. */
function tabulateLens(metrics) {
  const names = metrics.map((metric) => metric.name.split("/"));
  const methods = [...new Set(["own", ...names.map((parts) => parts[1])])], measures = [...new Set(names.map((parts) => parts[2]))];
  const mean = (values, isGain) => {
    const known = values.filter((value) => value !== null);
    const average = known.reduce((sum, value) => sum + value, 0) / known.length;
    return Math.abs(average) < 1e-6 && !isGain ? 0 : average;  // what is 0 but for rounding
  };
  const rows = DATA.runs.flatMap((run, index) => methods.map((method) => {
    const found = measures.map((measure) => run.metrics[`lens/${method}/${measure}`]);
    return { cells: [runName(index), method, ...found.map((series, at) => series ? format(mean(series.values, measures[at].startsWith("gain"))) : "–")],
      isKnown: found.some(Boolean) };
  })).filter((row) => row.isKnown);
  return table("The lens, mean over updates: what each preference would do with the same responses",
    ["run", "preference", ...measures.map((measure) => measure.replaceAll("_", " "))], rows, measures.map((_, at) => at + 2));
}
