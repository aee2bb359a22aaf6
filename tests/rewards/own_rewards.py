"""Rewards as users write them; importable by workers."""

import asyncio

from lambda_grpo_pl.rewards import groupwise


class OneElement:
    """A numpy scalar's or one-element tensor's shape of a number."""

    def item(self):
        return 0.75


def returns(completion, example):
    """Return what the row says."""
    if example["value"] == "one element":
        return OneElement()
    if example["value"] == "numpy":
        import numpy

        return numpy.float32(0.75)
    if example["value"] == "huge":
        return 10**400
    return example["value"]


def trl_style(prompts, completions, answer, **kwargs):
    assert len(prompts) == len(completions) == len(answer) == len(kwargs["truncated"])
    return [float(text == gold) + len(prompt) for prompt, text, gold in zip(prompts, completions, answer, strict=True)]


def trl_needs(completions, missing_column):
    return [0.0] * len(completions)


def batchwise(completions, examples):
    return [len(completions)] * len(completions)


@groupwise
def shortest(completions, examples):
    lengths = [example["response_length"] for example in examples]
    return [length == min(lengths) for length in lengths]


@groupwise
def too_few(completions, examples):
    return [1.0]


async def slow(completion, example):
    await asyncio.sleep(0.2)
    return float(len(completion))


def with_extras(completion, example):
    return {"score": 1.0, "words": len(completion.split())}


def broken(completion, example):
    return 1 // int(completion)
