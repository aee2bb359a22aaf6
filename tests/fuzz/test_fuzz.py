"""Whatever a model says and whatever a file holds: no crash, no hang, no reward for a wrong answer.

Each property is checked on a few hundred examples in `make test` and on 10,000 in `make test-slow`.
"""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.callbacks.checkpoint_io import DurableCheckpointIO, describe_damage
from lambda_grpo_pl.cli.resume import newest_checkpoint
from lambda_grpo_pl.data.prompts import PromptReader, PromptRules
from lambda_grpo_pl.data.sources import PromptSource, open_rows
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.policy.packing import plan_micro_batches
from lambda_grpo_pl.rewards import Verdict
from lambda_grpo_pl.rewards.formats import format_boxed, format_think
from lambda_grpo_pl.rewards.math.answers import ExactReward, MathReward, MultipleChoiceReward, NumericReward

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
NUM_EXAMPLES = {"fast": 200, "slow": 10_000}
SECONDS = 2.0  # of this process, whatever else the machine does
"""More than any of these functions needs, also on a busy machine."""


def fuzz(size: str, check: Callable[..., None], fixed: dict[str, Any], **strategies: Any) -> None:
    """Call a check with many examples of what strategies draw, and with fixed arguments."""
    profile = settings(max_examples=NUM_EXAMPLES[size], deadline=None, suppress_health_check=QUIET)
    profile(given(**strategies)(check))(**fixed)


SIZES = ["fast", pytest.param("slow", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]

# ------------------------------------------------------------------------------------------------ completions

GOLD = "987654321"
TAGS = ["<answer>", "</answer>", "<think>", "</think>", "#### ", "The answer is ", "final answer: ", "<|im_end|>"]
LATEX = [r"\boxed{", "}", "{", r"\frac{1}{2}", r"\sqrt{", r"\text{", "$", "$$", r"\(", r"\)", r"\[", r"\]", "2^{2^{2}}"]
SIGNS = [
    "\\",
    "^",
    "_",
    "**",
    "|",
    "1e308",
    "-",
    "1/0",
    "½",
    "٣",
    "∞",
    "i",
    "\n",
    " ",
    ",",
    ".",
    "(",
    "[",
    "\x00",
    "\x1b[2J",
]
PIECES = st.sampled_from([*TAGS, *LATEX, *SIGNS, "\u202e"])
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="9"), max_size=20)
COMPLETIONS = st.lists(st.one_of(PIECES, TEXT), max_size=30).map("".join)
REWARDS: list[Callable[..., Any]] = [
    MathReward().prepare,
    NumericReward(),
    ExactReward(),
    MultipleChoiceReward(letters="ABCD9"),
    format_boxed,
    format_think,
]


def judge(completion: str) -> None:
    for reward in REWARDS:
        gold = "9" if isinstance(reward, MultipleChoiceReward) else GOLD
        example = {"answer": gold, "response_length": 1, "truncated": False}
        start = time.process_time()
        verdict = reward(completion, example)
        assert time.process_time() - start < SECONDS, reward
        if isinstance(verdict, Verdict):
            assert not verdict.correct, "a completion without the digit 9 does not state the gold"


@pytest.mark.parametrize("size", SIZES)
def test_no_completion_breaks_a_reward_or_is_right_by_chance(size: str) -> None:
    fuzz(size, judge, {}, completion=COMPLETIONS)


# ------------------------------------------------------------------------------------------------ rows

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)
FIELDS = st.one_of(JSON, st.text(min_size=1, max_size=10), st.integers())
ROWS = st.fixed_dictionaries({}, optional={"question": FIELDS, "answer": FIELDS, "id": FIELDS})
LINES = st.one_of(
    ROWS.map(lambda row: json.dumps(row).encode()),
    ROWS.map(lambda row: json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"").lstrip(b"\xfe\xff")),  # UTF-16 is refused as a file
    JSON.map(lambda value: json.dumps(value).encode()),
    st.integers(1000, 100_000).map(lambda depth: b'{"question": ' + b"[" * depth),
)
TOKENIZER = character_tokenizer()


def read(lines: list[bytes], folder: Path) -> None:
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    reader = PromptReader(PromptSource(path=str(path)), PromptRules(on_bad_row="skip"), TOKENIZER)
    start = time.process_time()
    with contextlib.suppress(UserError):  # no usable row at all
        reader.read()
    assert time.process_time() - start < SECONDS
    reader = PromptReader(reader.source, reader.rules, TOKENIZER)
    rows = list(reader.encode_all(open_rows(reader.source, "data.train")))
    assert len(rows) + len(reader.skipped) == reader.num_read
    for row in rows:
        assert row.ids
        assert isinstance(row.example["question"], str)
        assert isinstance(row.example["answer"], str)
        assert row.example["answer"]


@pytest.mark.parametrize("size", SIZES)
def test_every_row_is_read_or_skipped_with_a_reason(size: str, tmp_path: Path) -> None:
    fuzz(size, read, {"folder": tmp_path}, lines=st.lists(LINES, max_size=6))


# ------------------------------------------------------------------------------------------------ packing


def plan(data: st.DataObject) -> None:
    num_prompts, group = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    sizes = st.integers(0, 40)
    prompts = torch.tensor(data.draw(st.lists(st.integers(1, 40), min_size=num_prompts, max_size=num_prompts)))
    num_rows = num_prompts * group
    lengths = torch.tensor(data.draw(st.lists(sizes, min_size=num_rows, max_size=num_rows)))
    rows = torch.tensor(sorted(data.draw(st.sets(st.integers(0, num_rows - 1), min_size=1))))
    budget, layout = data.draw(st.integers(1, 200)), data.draw(st.sampled_from(["padded", "packed", "shared_prefix"]))
    parts = plan_micro_batches(rows, prompts, lengths, budget, layout)
    assert sorted(row for part in parts for row in part.tolist()) == rows.tolist()
    tokens = prompts.repeat_interleave(group) + (lengths - 1).clamp(min=0)
    for part in parts:
        if len(part) == 1:
            continue
        if layout == "padded":
            assert len(part) * int(tokens[part].max()) <= budget
        elif layout == "packed":
            assert int(tokens[part].sum()) <= budget
        else:
            owners = (part // group).unique()
            assert int(prompts[owners].sum() + (lengths[part] - 1).clamp(min=0).sum()) <= budget


@pytest.mark.parametrize("size", SIZES)
def test_every_row_is_in_one_micro_batch_within_the_budget(size: str) -> None:
    fuzz(size, plan, {}, data=st.data())


# ------------------------------------------------------------------------------------------------ checkpoints

STATE = {"global_step": 3, "weights": torch.arange(100.0), "text": "λ"}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("content") / "a.ckpt"
    DurableCheckpointIO().save_checkpoint(STATE, path)
    return path.read_bytes()


def damage(place: float, bit: int, share: float, cuts: bool, whole: bytes, folder: Path) -> None:
    """What is not found damaged is read as it was written."""
    path = folder / "checkpoints" / "last.ckpt"
    path.parent.mkdir(exist_ok=True)
    broken = bytearray(whole)
    broken[int(place * (len(whole) - 1))] ^= 1 << bit
    path.write_bytes(whole[: int(share * (len(whole) - 1))] if cuts else broken)
    if describe_damage(path) is None:
        assert not cuts
        state = torch.load(path, weights_only=True)
        assert torch.equal(state["weights"], STATE["weights"])
        assert (state["global_step"], state["text"]) == (3, "λ")


@pytest.mark.parametrize("size", SIZES)
def test_a_damaged_checkpoint_is_never_taken_for_another_state(size: str, content: bytes, tmp_path: Path) -> None:
    shares = st.floats(0, 1)
    fixed = {"whole": content, "folder": tmp_path}
    fuzz(size, damage, fixed, place=shares, bit=st.integers(0, 7), share=shares, cuts=st.booleans())


def find(files: list[bytes], is_folder: bool, has_good: bool, whole: bytes, root: Path) -> None:
    folder = root / str(len(list(root.iterdir()))) / "checkpoints"
    folder.mkdir(parents=True)
    for number, raw in enumerate(files):
        (folder / f"bad-{number}.ckpt").write_bytes(raw)
    if is_folder:
        (folder / "shards.ckpt").mkdir()
    if has_good:
        (folder / "best.ckpt").write_bytes(whole)
    assert newest_checkpoint(folder.parent) == (folder / "best.ckpt" if has_good else None)


@pytest.mark.filterwarnings("ignore:.*is not a complete checkpoint")
def test_the_complete_checkpoint_is_found_among_any_others(content: bytes, tmp_path: Path) -> None:
    files = st.lists(st.binary(max_size=200), max_size=4)
    fixed = {"whole": content, "root": tmp_path}
    fuzz("fast", find, fixed, files=files, is_folder=st.booleans(), has_good=st.booleans())
