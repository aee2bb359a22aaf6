"""The `math` reward against (gold, prediction, expected) facts gathered from the field's graders, and hostile text."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lambda_grpo_pl.rewards import PoolConfig, RewardSpec, RewardSuite, build, grade

DATA = Path(__file__).parents[2] / "data/rewards"
CASES = [json.loads(line) for line in (DATA / "grader_cases.jsonl").read_text(encoding="utf-8").splitlines()]
ORDINARY = [case for case in CASES if not case["category"].startswith("adv_")]
HOSTILE = [case for case in CASES if case["category"].startswith("adv_")]
TIMEOUT_S = 3.0


@pytest.fixture(scope="module")
def suite():
    suite = RewardSuite([RewardSpec(name="math")], PoolConfig(timeout_s=TIMEOUT_S))
    suite.score([r"\boxed{x+y}"], [{"answer": "y+x"}], [1], [False])
    yield suite
    suite.close()


def judge(suite, pairs):
    golds, completions = zip(*pairs, strict=True)
    return suite.score(completions, [{"answer": gold} for gold in golds], [1] * len(golds), [False] * len(golds))


def test_ordinary_cases_come_out_as_expected():
    """What is right must not depend on how busy the machine is, hence a long time-out."""
    patient = RewardSuite([RewardSpec(name="math")], PoolConfig(timeout_s=60.0))
    scores = judge(patient, [(case["gold"], case["prediction"]) for case in ORDINARY])
    patient.close()
    wrong = [
        case["id"]
        for case, verdict in zip(ORDINARY, scores.verdicts, strict=True)
        if verdict.correct != case["expected"]
    ]
    assert scores.num_failed == 0
    assert wrong == []


@pytest.mark.parametrize("name", ["reported_cases", "variant_cases"])
def test_cases_after_reported_faults_come_out_as_expected(name):
    """`reported`: after faults that users reported to graders; `variant`: the same kinds, right and wrong alike."""
    cases = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    patient = RewardSuite([RewardSpec(name="math")], PoolConfig(timeout_s=60.0))
    scores = judge(patient, [(case["gold"], case["prediction"]) for case in cases])
    patient.close()
    wrong = [
        (case["gold"], case["prediction"])
        for case, verdict in zip(cases, scores.verdicts, strict=True)
        if verdict.correct != case["expected"]
    ]
    assert scores.num_failed == 0
    assert wrong == []


LONG_WINDED = {
    "words after the cue": ("the answer is ", "word ", ""),
    "spaces in a box": (r"\boxed{1", "  ", "1}"),
    "spaces after the cue": ("the answer is 1", "  ", "1"),
    "non-breaking spaces": (r"\boxed{1", "~~", "1}"),
    "spacing commands": (r"\boxed{1", r"\ ", "x}"),
    "words in a box": (r"\boxed{1", " meters", "!}"),
    "joined boxes": ("", r"\boxed{1},", ""),
    "headings": ("", "final answer\n", ""),
}


@pytest.mark.parametrize("shape", LONG_WINDED)
@pytest.mark.parametrize("name", ["math", "math_lenient", "numeric", "exact", "multiple_choice", "format_boxed"])
def test_inline_reading_is_linear_in_the_response(name, shape):
    """16,000 repetitions. Quadratic scans took 10 s to 100 s here; the bound leaves room for a busy machine."""
    before, part, after = LONG_WINDED[shape]
    reward = build(name, {})
    read = getattr(reward, "prepare", reward)
    start = time.process_time()
    read(before + part * 16_000 + after, {"answer": "C" if name == "multiple_choice" else "3"})
    assert time.process_time() - start < 0.5


def test_hostile_cases_earn_nothing_and_end_in_time_off_the_main_thread(suite):
    scores, seconds = [], []

    def score_each():
        for case in HOSTILE:
            start = time.monotonic()
            scores.append(judge(suite, [(case["gold"], case["prediction"])]).verdicts[0])
            seconds.append(time.monotonic() - start)

    thread = threading.Thread(target=score_each)
    thread.start()
    thread.join()
    assert [verdict.correct for verdict in scores] == [case["expected"] for case in HOSTILE]
    assert max(seconds) < TIMEOUT_S + 1


LARGE = {
    "a megabyte, the box never closes": ("We have $x_1 = 3$ and so $y = 5$. " * 29_400 + r"$\boxed{42}"[:-1], False),
    "a box, then a flood": (r"\boxed{41}" + " wait," * 30_000, False),
    "the later box counts": (
        r"\boxed{42}" + "Let us consider the next case. " * 6_500 + r"So it is \boxed{43}.",
        False,
    ),
    "a wide alphabet": ("字" * 200_000 + r"\boxed{42}", True),
    "digits": ("The answer is " + "3" * 50_000, False),
    "grouped digits": ("#### 1" + ",2341" * 20_000, False),
    "a long decimal": (r"\boxed{0." + "3" * 20_000 + "}", False),
    "open braces": ("{" * 50_000, False),
    "open boxes": (r"\boxed{" * 8_000, False),
    "open fractions": (r"\frac{1}{" * 5_000, False),
    "open parentheses": ("(1 " * 20_000, False),
    "closed braces": (r"\boxed{" + "{" * 3_000 + "42" + "}" * 3_000 + "}", False),
    "dollars": ("$" * 20_001, False),
    "formulas": ("$a$ and " * 5_000, False),
    "numbers": ("1 " * 50_000, False),
    "spaces": (" " * 200_000 + "x", False),
    "answer cues": ("the answer is " * 20_000, False),
    "hash marks": ("#### " * 40_000, False),
    "think tags": ("<think>" * 20_000 + "42", False),
    "every value": (r"\boxed{" + ", ".join(map(str, range(3000))) + "}", False),
    "a long sum": (r"\boxed{" + "+".join("x" * 2000) + "}", False),
    "joined boxes": (r"\boxed{1} " * 5_000 + r"\boxed{42}", False),
    "separate boxes": (r"\boxed{1} so " * 5_000 + r"\boxed{42}", True),
    "units": (r"\boxed{42" + " square meters" * 100 + "}", True),
    "signs": (r"\boxed{" + "-" * 2_000 + "7}", False),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_text_is_read_in_linear_time(suite, name):
    completion, expected = LARGE[name]
    start = time.monotonic()
    verdict = judge(suite, [("42", completion)]).verdicts[0]
    assert (verdict.correct, time.monotonic() - start < 2.0) == (expected, True)


INJECTIONS = [
    "__import__('os').system('touch {path}')",
    "open('{path}','w').write('x')",
    r"\write18{{touch {path}}}",
    r"\immediate\write18{{touch {path}}}",
    "eval(\"open('{path}','w')\")",
    "().__class__.__base__.__subclasses__()",
    "raise SystemExit",
    "lambda: open('{path}','w')",
    "1;import os;os.system('touch {path}')",
]


@pytest.mark.parametrize("code", INJECTIONS)
@pytest.mark.parametrize("form", [r"\boxed{%s}", "#### %s", "The answer is %s", "<answer>%s</answer>"])
def test_code_in_an_answer_is_not_run(suite, code, form, tmp_path):
    path = tmp_path / "pwned"
    verdict = judge(suite, [("42", form % code.format(path=path))]).verdicts[0]
    assert not verdict.correct
    assert not path.exists()


WIDER = [
    ("2", r"\boxed{2n}", False),
    ("10", "The answer is 10 meters.", True),
    ("5", r"$\boxed{3}$ or $\boxed{5}$", False),
    ("1, 2", r"$\boxed{1}$ and $\boxed{2}$", True),
    ("7, 8", "The answers are 7 and 8.", True),
    ("8", "The answers are 7 and 8.", False),
    ("120", "The answer is 120 because 5! = 120.", True),
    ("B", "The answer is (B).", True),
    ("B", "Answer: A or B", False),
    ("A", r"\boxed{A cat}", False),
    (r"\frac13", r"\boxed{0.\overline{3}}", True),
    ("3.5", r"\boxed{3 1/2}", True),
    ("12", r"\boxed{1 2}", False),
    ("(1,2)", r"\boxed{(2,1)}", False),
    ("(1,2]", r"\boxed{(1,2)}", False),
    ("i", r"\boxed{\sqrt{-1}}", True),
    ("-1", r"\boxed{e^{i\pi}}", True),
    (r"\pi/2", r"\boxed{1.5708}", False),
    (r"\pi/2", r"\boxed{1.570796}", True),
    ("4.5e33", r"\boxed{45\cdot 10^{32}}", True),
    ("1.6e-19", r"\boxed{1.7e-19}", False),
    ("0", r"\boxed{0.0000001}", False),
    ("1000000", r"\boxed{1 \text{ million}}", True),
    ("1", r"\boxed{1 \text{ million}}", False),
    ("5!", r"\boxed{120}", True),
    ("5", r"\boxed{5!}", False),
    (r"\sin 30^\circ", r"\boxed{\frac12}", True),
    (r"\frac{\pi}{2}", r"\boxed{\frac\pi2}", True),
    ("3:4", r"\boxed{4:3}", False),
    ("42", r"\boxed{\pm 42}", False),
    (r"\pm 42", r"\boxed{-42, 42}", True),
    ("42", r"\boxed{41 \text{ or } 42}", False),
    ("42", r"<think>\boxed{42}", False),
    ("42", r"<think>\boxed{41}</think>\boxed{42}", True),
    ("y = 2x + 3", r"\boxed{2x - y + 3 = 0}", True),
    (r"\emptyset", r"\boxed{\varnothing}", True),
    ("204_5", r"\boxed{204_6}", False),
    ("Mrs. Hilt", "The answer is Mrs. Hilt.", True),
    ("18", "#### 18\n\nHope this helps", True),
    ("42", "#### Step 42", False),
    ("2\\sqrt{3}", r"\boxed{2√3}", True),
    (r"\frac{3}{4}", r"\boxed{¾}", True),
    ("2^{1000}", r"\boxed{2^{1001}}", False),
    ("x^2+1", r"\boxed{x^2-1}", False),
]


def test_wider_cases_come_out_as_documented(suite):
    scores = judge(suite, [(gold, completion) for gold, completion, _ in WIDER])
    got = [(gold, text, verdict.correct) for (gold, text, _), verdict in zip(WIDER, scores.verdicts, strict=True)]
    assert got == WIDER


def test_no_answer_wrong_and_failed_are_three_outcomes():
    suite = RewardSuite([RewardSpec(name="math")], PoolConfig(timeout_s=0.2))
    hard = r"\boxed{\int_0^1 \sin(x^x+\sqrt{x^5+\ln(x+2)}) \tan(x^{x+1}) dx}"
    scores = judge(suite, [("1", "I do not know."), ("1", r"\boxed{2}"), (r"\int_0^1 \cos(x^x) dx", hard)])
    suite.close()
    assert [verdict.status for verdict in scores.verdicts] == ["no_answer", "ok", "failed"]
    assert (scores.num_no_answer, scores.num_failed) == (1, 1)


def test_grade_judges_one_answer():
    assert grade("0.5", r"It is \boxed{\frac{x}{2x}}.").correct


def test_the_trainers_process_imports_no_computer_algebra_and_no_torch():
    code = (
        "import sys\nfrom lambda_grpo_pl.rewards import grade\nassert grade('x', r'\\boxed{y}').status == 'ok'\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'sympy', 'math_verify', 'lightning')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("answer", "correct"),
    [(r"\frac{1}{10}\left[\begin{array}{ll}1 & 0 \\ 3 & 9\end{array}\right]", True), ("17", False)],
)
def test_a_scaled_matrix_is_compared_and_never_fails_the_verifier(answer: str, correct: bool) -> None:
    gold = r"\frac{1}{10}\left[\begin{array}{ll}1 & 0 \\ 3 & 9\end{array}\right]"
    verdict = grade(gold, f"\\boxed{{{answer}}}")
    assert verdict.correct is correct
    assert verdict.status == "ok"
