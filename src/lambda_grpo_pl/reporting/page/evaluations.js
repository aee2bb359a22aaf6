// Scores with intervals, by benchmark, run and step.

const IRRELEVANT = ["policy", "seed", "benchmark"];

function listScores() {
  return DATA.runs.flatMap((run, index) => run.evaluations.flatMap((evaluation, position) =>
    Object.entries(evaluation.benchmarks).map(([benchmark, scores]) => ({
      run: index, benchmark, scores, step: evaluation.step, method: evaluation.method, finished: evaluation.finished,
      isLast: position === run.evaluations.length - 1 }))));
}

function describeScores({ run, benchmark, scores, step, method, finished }) {
  const { metric, measures } = scores;
  const samples = measures.num_samples ?? 1;
  const interval = measures[`${metric}_low`] === undefined ? ""
    : ` [${percent(measures[`${metric}_low`])}, ${percent(measures[`${metric}_high`])}]`;
  const length = (name) => measures[name] === undefined ? "–" : measures[name].toFixed(0);
  return { cells: [`${benchmark}: ${metric}`, runName(run), step, method, `${percent(measures[metric])}${interval}`,
    measures.num_questions ?? "–", samples,
    samples > 1 ? percent(measures[`pass@${samples}`]) : "–", samples > 1 ? percent(measures[`maj@${samples}`]) : "–",
    length("length/mean"), `${length("length/correct")} / ${length("length/incorrect")}`,
    percent(measures.truncated), percent(measures.no_answer), percent(measures.verifier_failed),
    finished ? "" : "not finished"] };
}

/** Return the ways in which a benchmark was asked, each with the runs that used it. */
function listSetups(entries) {
  const setups = new Map();
  for (const { run, benchmark, scores } of entries) {
    const kept = Object.entries(scores.setup).filter(([name]) => !IRRELEVANT.includes(name));
    const text = kept.map(([name, value]) => `${name} ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ");
    const key = `${benchmark}: ${text}`;
    if (!setups.has(key)) setups.set(key, { benchmark, text, runs: new Set() });
    setups.get(key).runs.add(DATA.runs[run].name);
  }
  return [...setups.values()];
}

function drawEvaluation() {
  const place = section("evaluation");
  const entries = listScores();
  if (!entries.length) {
    place.append(el("p", {}, "No run has an evaluation: ", el("code", {}, "lambda-grpo validate"), " makes one."));
    return;
  }
  const benchmarks = [...new Set(entries.map((entry) => entry.benchmark))];
  const head = ["benchmark", "run", "update", "method", "score % [95 %]", "questions", "n", "pass@n", "maj@n",
    "tokens", "correct / incorrect", "truncated %", "no answer %", "verifier failed %", ""];
  const holder = el("div");
  const onlyLast = el("input", { type: "checkbox", id: "only-last", onchange: show });
  function show() {
    const ordered = benchmarks.flatMap((name) => entries.filter((entry) => entry.benchmark === name));
    const chosen = ordered.filter((entry) => entry.isLast || !onlyLast.checked);
    holder.replaceChildren(table("Scores in % with 95 % intervals over questions; lengths in tokens", head,
      chosen.map(describeScores), [2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]));
  }
  const made = benchmarks.map((name) => makeChart({
    title: name, meaning: "score with its 95 % interval over questions", lines: () => DATA.runs.map((run, index) => {
      const own = entries.filter((entry) => entry.run === index && entry.benchmark === name);
      const measure = (suffix) => own.map(({ scores }) => scores.measures[scores.metric + suffix] ?? null);
      return { run: index, label: "", dash: null, dots: true, xs: own.map((entry) => entry.step), ys: measure(""),
        lows: measure("_low"), highs: measure("_high") };
    }) }));
  place.append(el("div", { class: "controls" }, el("label", {}, onlyLast, "Only the last evaluation of each run")), holder,
    el("p", { class: "quiet" }, "Intervals are over questions, not over training seeds. ",
      el("code", {}, "lambda-grpo compare"), " tests differences question by question."),
    el("div", { class: "grid" }, made.map((chart) => chart.figure)));
  show();
  made.forEach((chart) => chart.draw());
  const setups = listSetups(entries);
  const counts = new Map();
  for (const { benchmark } of setups) counts.set(benchmark, (counts.get(benchmark) ?? 0) + 1);
  const differing = [...counts].filter(([, count]) => count > 1).map(([name]) => name);
  place.append(el("details", { open: differing.length > 0 }, el("summary", {}, "How each benchmark was asked, sampled and judged"),
    differing.length ? el("p", {}, `Not the same measurement in all runs: ${differing.join(", ")}.`) : null,
    el("ul", { class: "notes" }, setups.map(({ benchmark, text, runs }) =>
      el("li", {}, el("strong", {}, benchmark), ` (${[...runs].join(", ")}): ${text}`)))));
}
