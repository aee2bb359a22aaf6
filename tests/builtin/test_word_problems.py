"""The task of the real model: stories whose solutions compute, in every style, and a warm-up that teaches the form."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from lambda_grpo_pl.builtin.fine_tuning import FineTuningConfig, fine_tune
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.builtin.word_problems import EVENTS, STYLES, Story, WordProblemTask, WordProblemTraces, draw_story
from lambda_grpo_pl.errors import UserError

STORY = Story("Ana", "She", "shells", 24, ((0, 17), (2, 8)))


def test_a_story_asks_for_what_its_solutions_answer() -> None:
    assert STORY.question == (
        "Ana has 24 shells. She buys 17 more. Then she loses 8. How many shells does Ana have now?"
    )
    assert STORY.solve("answer") == "#### 33"
    assert STORY.solve("steps") == "24 + 17 = 41\n41 - 8 = 33\n#### 33"
    assert STORY.solve("spoken") == (
        "Ana starts with 24 shells.\nShe buys 17 more: 24 + 17 = 41.\nThen she loses 8: 41 - 8 = 33.\n#### 33"
    )


def test_every_equation_is_right() -> None:
    rng = random.Random(0)
    stories = [draw_story(rng, "train") for _ in range(200)]
    assert {kind for story in stories for kind, _ in story.events} == set(range(len(EVENTS)))
    for story in stories:
        for equation in story.equations:
            left, right = equation.split(" = ")
            assert eval(left) == int(right) > 0


def test_the_task_asks_shorter_and_easier_stories_than_the_warm_up_reads() -> None:
    rng = random.Random(0)
    read = [draw_story(rng, "train") for _ in range(200)]
    assert {len(story.events) for story in read} == {2, 3}
    assert 200 < max(max(story.totals) for story in read) <= 400
    asked = WordProblemTask("train", 200)
    assert {row["solution"].count("=") for row in asked} == {2}
    assert not any("-" in row["solution"] for row in asked)
    assert 90 < max(int(row["answer"]) for row in asked) <= 100


def test_rows_have_the_columns_that_sources_read_and_heldout_questions_do_not_repeat() -> None:
    train, test = WordProblemTask("train", 64), WordProblemTask("test", 64)
    assert set(train[0]) == {"id", "question", "answer", "solution"}
    questions = [row["question"] for row in test]
    assert len(set(questions)) == 64
    assert not set(questions) & {row["question"] for row in train}
    assert all(row["solution"].endswith(f"#### {row['answer']}") for row in test)


def test_the_warm_up_reads_all_styles() -> None:
    rng = random.Random(0)
    solutions = [WordProblemTraces().draw(rng, 0.0)[1] for _ in range(60)]
    assert {solution.count("\n") > 0 for solution in solutions} == {True, False}
    with pytest.raises(UserError, match="style_weights has 1 entries"):
        WordProblemTraces(style_weights=(1.0,))
    assert len(WordProblemTraces().style_weights) == len(STYLES)


def test_fine_tuning_lowers_the_loss_of_solutions_and_is_repeatable() -> None:
    tokenizer = character_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}={% endfor %}"
    losses = []
    for steps in (0, 30, 30):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                num_attention_heads=1, num_key_value_heads=1, pad_token_id=tokenizer.pad_token_id,
            )
        )  # fmt: skip
        config = FineTuningConfig(traces=WordProblemTraces(), num_steps=steps, batch_size=8, learning_rate=1e-2)
        fine_tune(model, tokenizer, config)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": STORY.question}], tokenize=True, return_dict=False
        )
        ids = torch.tensor([[*prompt, *tokenizer.encode(STORY.solve("steps"), add_special_tokens=False)]])
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, labels=ids).loss))
    assert losses[1] < losses[0] - 0.3
    assert losses[1] == losses[2]
