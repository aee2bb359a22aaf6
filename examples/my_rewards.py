"""Your own reward. From this folder:

    lambda-grpo fit --config preset:lambda --import my_rewards --reward.functions '[{name: numeric}, {name: brief}]'

`@register` gives it a short name; without that, `--reward.functions '[{name: my_rewards.brief}]'` names the function.
docs/verifier.md lists the other signatures, TRL's among them.
"""

from lambda_grpo_pl import register


@register("brief")
def brief(completion, example):
    """Return 1 for an empty response, falling to 0 at 64 tokens.

    `example` is the dataset's row, and what is known of the response.
    """
    num_tokens = example["response_length"]
    return {"score": max(0.0, 1 - num_tokens / 64), "words": len(completion.split())}  # reward/brief/words is logged
