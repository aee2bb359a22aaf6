"""What each reward reads in a response, in a sentence that is printed with every score."""

from __future__ import annotations

from collections.abc import Iterable

FINAL_ANSWER = (
    r"what follows the last </think>: the last \boxed{…}, else the last <answer>…</answer>, else the last `####`, "
    'else the last "answer is …"'
)
EXTRACTION: dict[str, str] = {
    "math": FINAL_ANSWER,
    "numeric": f"{FINAL_ANSWER}; it must be a number",
    "exact": FINAL_ANSWER,
    "multiple_choice": f"{FINAL_ANSWER}, else a response that is a letter; it must name one choice",
    "math_lenient": f"{FINAL_ANSWER}, else the last number",
}
WHOLE = "the whole response"


def describe_extraction(rewards: Iterable[str]) -> list[str]:
    """Return a line per distinct reward: where it looks for the answer, in this order.

    `rewards` are as `EvaluationSetup.reward` holds them, a sum of rewards among them: its first one judges.
    """
    tasks = dict.fromkeys(reward.partition(" + ")[0].rpartition("·")[2] for reward in rewards)
    return [f"{task} reads {EXTRACTION.get(task, WHOLE)}" for task in tasks]
