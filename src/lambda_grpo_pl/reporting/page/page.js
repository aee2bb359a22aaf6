// The page, from top to bottom.

document.title = `Run report: ${DATA.runs.map((run) => run.name).join(", ")}`;
document.getElementById("made").append(
  spellOut(`${plural(DATA.runs.length, "run")}, made ${DATA.created} by lambda-grpo-pl ${DATA.version}`));
drawRuns();
drawCharts();
drawPreference();
drawEvaluation();
drawResponses();
