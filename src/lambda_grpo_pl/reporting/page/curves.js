// f against relative length, one curve per run, with a slider over updates.

function drawPreference() {
  const place = section("preference");
  const updates = [...new Set(DATA.runs.flatMap((run) => run.curves.map((curve) => curve.update)))].sort((a, b) => a - b);
  if (!updates.length) {
    place.append(el("p", {}, "No run wrote preference_curve.csv; monitor.curve_every says how often it is written."));
    return;
  }
  const shownRuns = () => DATA.runs.filter((run, index) => state.shown.has(index));
  const points = () => shownRuns().flatMap((run) => run.curves.flatMap((curve) => curve.points));
  const slider = el("input", { type: "range", id: "update", min: 0, max: updates.length - 1, step: 1,
    value: updates.length - 1 });
  const output = el("output", { for: "update", id: "update-shown" });
  const latest = (run) => run.curves.filter((curve) => curve.update <= updates[slider.value]).at(-1);
  const chart = makeChart({
    title: "f(ℓ): weight of a response against its length",
    meaning: "Above 1 a response counts more than under a plain token mean. The scales stay while the slider moves.",
    xLabel: "length / mean length of its group",
    rule: 1,
    isWide: true,
    widths: () => points().map((point) => point[0]),
    bounds: () => points().map((point) => point[1]),
    lines: () => DATA.runs.flatMap((run, index) => {
      const curve = latest(run);
      return curve ? [{ run: index, label: "", dash: null, dots: true, xs: curve.points.map((point) => point[0]),
        ys: curve.points.map((point) => point[1]) }] : [];
    }),
  });
  function show() {
    const used = DATA.runs.map((run) => ({ run, curve: latest(run) })).filter(({ curve }) => curve);
    const older = used.filter(({ curve }) => curve.update !== updates[slider.value])
      .map(({ run, curve }) => `${run.name}: ${curve.update}`);
    output.textContent = `update ${updates[slider.value]}` + (older.length ? ` (${older.join(", ")})` : "");
    slider.setAttribute("aria-valuetext", output.textContent);
    chart.draw();
  }
  slider.addEventListener("input", show);
  place.append(
    el("p", {}, "Points are averages of equally many responses of one rollout. A run without a curve at an update shows " +
      "its latest one before; its update is then in brackets."),
    el("div", { class: "controls" }, el("label", { for: "update" }, "Update"), slider, output),
    chart.figure);
  show();
}
