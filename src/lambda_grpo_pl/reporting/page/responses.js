// Responses to read: filters, search and pages over the ones that are in the page.

const PAGE_SIZE = 20;
const VERDICTS = {
  "": ["all", () => true],
  correct: ["correct", (item) => item.correct],
  incorrect: ["incorrect", (item) => !item.correct],
  no_answer: ["no answer found", (item) => item.status === "no_answer"],
  failed: ["verifier failed", (item) => item.status === "failed"],
  truncated: ["truncated", (item) => item.truncated],
};
const ORDERS = {
  question: ["question", () => 0],
  shortest: ["shortest first", (a, b) => a.length - b.length],
  longest: ["longest first", (a, b) => b.length - a.length],
};

function choice(id, label, options) {
  const select = el("select", { id }, options.map(([value, text]) => el("option", { value }, text)));
  return { select, node: el("label", { for: id }, label, select) };
}

function field(id, label, attributes) {
  const input = el("input", { id, ...attributes });
  return { select: input, node: el("label", { for: id }, label, input) };
}

/** Return text nodes with the searched text marked. */
function markText(text, searched) {
  if (!searched) return [text];
  const found = [], lower = text.toLowerCase();
  let start = 0;
  while (found.length < 200) {
    const at = lower.indexOf(searched, start);
    if (at < 0) break;
    found.push(text.slice(start, at), el("mark", {}, text.slice(at, at + searched.length)));
    start = at + searched.length;
  }
  return [...found, text.slice(start)];
}

function textBox(label, text, leftOut, searched) {
  const more = leftOut ? el("p", { class: "quiet" }, `${leftOut.toLocaleString("en-US")} more characters are not in this page.`) : null;
  return [el("pre", { tabindex: 0, role: "region", "aria-label": label }, markText(text, searched)), more];
}

function showResponse(item, searched) {
  const question = DATA.responses.questions[item.question];
  const verdict = item.correct ? "✓ correct" : "✗ incorrect";
  const status = { ok: "", no_answer: "no answer found", failed: "verifier failed" }[item.status] ?? item.status;
  const facts = [`update ${item.step}`, `${question.benchmark} ${question.id}`, `sample ${item.sample + 1}`,
    plural(item.length, "token"), `score ${format(item.score)}`, item.truncated ? "truncated" : "", status].filter(Boolean);
  return el("article", { class: `response ${item.correct ? "correct" : "incorrect"}` },
    el("h3", {}, el("span", { class: "verdict" }, verdict), runName(item.run)),
    el("p", { class: "quiet" }, facts.join(" · ")),
    textBox("Response", item.text, item.leftOut, searched),
    el("p", { class: "quiet" }, `Answer read: ${item.extracted ?? "none"} · gold answer: ${question.answer}`),
    isShort(question.prompt) ? el("p", { class: "quiet" }, "Prompt: ", markText(question.prompt, searched))
      : el("details", {}, el("summary", {}, "Prompt"), textBox("Prompt", question.prompt, question.leftOut, searched)));
}

function isShort(text) {
  return text.length <= 200 && !text.trim().includes("\n");
}

/** Return the items in the order of their questions, so that the runs' answers to one question are neighbors. */
function orderByQuestion(items) {
  const place = ({ question }) => DATA.responses.questions[question];
  return [...items].sort((a, b) => place(a).benchmark.localeCompare(place(b).benchmark) ||
    place(a).index - place(b).index || a.question - b.question || a.run - b.run || a.step - b.step || a.sample - b.sample);
}

function drawResponses() {
  const place = section("responses");
  const items = orderByQuestion(DATA.responses.items);
  if (!items.length) {
    place.append(el("p", {}, DATA.responses.total ? `None of ${plural(DATA.responses.total, "response")} is in this page.`
      : "No run has records of an evaluation."));
    return;
  }
  const unique = (values) => [...new Set(values)];
  const all = [["", "all"]];
  const steps = unique(items.map((item) => item.step)).sort((a, b) => a - b);
  const benchmarks = unique(DATA.responses.questions.map((question) => question.benchmark));
  const fields = {
    run: choice("filter-run", "Run", [...all, ...DATA.runs.map((run, index) => [index, run.name])]),
    step: choice("filter-step", "Evaluated at update", [...all, ...steps.map((step) => [step, step])]),
    benchmark: choice("filter-benchmark", "Benchmark", [...all, ...benchmarks.map((name) => [name, name])]),
    verdict: choice("filter-verdict", "Verdict", Object.entries(VERDICTS).map(([value, [text]]) => [value, text])),
    shortest: field("filter-shortest", "Tokens, at least", { type: "number", min: 0 }),
    longest: field("filter-longest", "Tokens, at most", { type: "number", min: 0 }),
    text: field("filter-text", "Text in prompt, response or answer", { type: "search" }),
    order: choice("filter-order", "Order", Object.entries(ORDERS).map(([value, [text]]) => [value, text])),
  };
  const value = (name) => fields[name].select.value;
  const count = el("output", { id: "count" });
  const list = el("div", { id: "list" });
  const back = el("button", { type: "button", onclick: () => turn(-1) }, "Previous page");
  const forward = el("button", { type: "button", onclick: () => turn(1) }, "Next page");
  let matching = items, start = 0;

  function matches(item) {
    const question = DATA.responses.questions[item.question], searched = value("text").toLowerCase();
    return (!value("run") || item.run === Number(value("run"))) && (!value("step") || item.step === Number(value("step"))) &&
      (!value("benchmark") || question.benchmark === value("benchmark")) && VERDICTS[value("verdict")][1](item) &&
      (!value("shortest") || item.length >= Number(value("shortest"))) &&
      (!value("longest") || item.length <= Number(value("longest"))) &&
      (!searched || [item.text, question.prompt, question.answer, item.extracted ?? ""]
        .some((text) => text.toLowerCase().includes(searched)));
  }

  function filter() {
    matching = items.filter(matches);
    if (value("order") !== "question") matching.sort(ORDERS[value("order")][1]);
    start = 0;
    show();
  }

  function turn(pages) {
    start += pages * PAGE_SIZE;
    show();
    count.scrollIntoView({ block: "center" });
  }

  function show() {
    const page = matching.slice(start, start + PAGE_SIZE);
    const shown = page.length ? `${start + 1}–${start + page.length} of ` : "";
    count.textContent = `${shown}${plural(matching.length, "matching response")}`;
    list.replaceChildren(...page.map((item) => showResponse(item, value("text").toLowerCase())));
    back.disabled = start === 0;
    forward.disabled = start + PAGE_SIZE >= matching.length;
  }

  const correct = items.filter((item) => item.correct).length;
  place.append(
    el("p", {}, `${items.length.toLocaleString("en-US")} of ${plural(DATA.responses.total, "response")} from the ` +
      `evaluations are in this page; ${correct.toLocaleString("en-US")} of them are correct.`,
      items.length < DATA.responses.total ? [" Their questions are a sample that does not depend on scores and is the " +
        "same for every run; ", el("code", {}, "--responses"), " sets its size."] : null),
    el("form", { class: "filters", oninput: filter, onsubmit: (event) => event.preventDefault() },
      Object.values(fields).map(({ node }) => node)),
    el("div", { class: "pages" }, back, forward, count), list);
  filter();
}
