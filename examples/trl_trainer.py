"""λ-GRPO inside TRL's GRPOTrainer: one class, written for TRL 1.16 (`pip install 'trl>=1.16,<1.17'`).

    python trl_trainer.py MODEL

Each optimizer step must see a whole generation batch, since λ compares the responses of a group: set
per_device_train_batch_size to the batch of responses, and gradient_accumulation_steps to 1.
"""

import sys

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from lambda_grpo_pl.objective import (
    LengthPreference,
    PreferenceConfig,
    SurrogateConfig,
    TokenLogprobs,
    count_tokens,
    policy_loss,
    preference_objective,
)


class LambdaGRPOTrainer(GRPOTrainer):
    """GRPOTrainer whose responses weigh f(ℓ), with λ learned by SGD."""

    def __init__(self, *args, preference: PreferenceConfig = PreferenceConfig(), **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.gradient_accumulation_steps != 1 or self.args.steps_per_generation != 1:
            raise ValueError(
                "Set gradient_accumulation_steps and steps_per_generation to 1: a step needs whole groups."
            )
        self.preference = LengthPreference(preference).to(self.accelerator.device)
        self.lam_optimizer = torch.optim.SGD(self.preference.parameters(), lr=preference.lr)

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        return output | {"row": torch.arange(len(output["advantages"]))}

    def _compute_loss(self, model, inputs):
        order = inputs["row"].argsort()  # TRL shuffles the rows; now the G responses of a prompt are neighbors again
        prompts, responses, mask = (inputs[key][order] for key in ("prompt_ids", "completion_ids", "completion_mask"))
        attention = torch.cat([inputs["prompt_mask"][order], mask], dim=1)
        ids = torch.cat([prompts, responses], dim=1)
        logprobs, *_ = self._get_per_token_logps_and_entropies(model, ids, attention, responses.shape[1])

        lengths = mask.sum(1).view(-1, self.num_generations)  # [B, G]
        count = count_tokens(lengths, reduce=self.accelerator.reduce)  # Z over all processes
        f = self.preference(lengths, count.mean_length).detach()
        weights = (f / count.denominator).flatten() * self.accelerator.num_processes  # DDP averages gradients
        advantages = inputs["advantages"][order]
        out = policy_loss(TokenLogprobs(logprobs), mask.bool(), advantages, weights, SurrogateConfig())

        if model.training:
            gain = preference_objective(self.preference, out.surrogates.view_as(f), lengths, count)
            self.lam_optimizer.zero_grad()
            (-gain).backward()
            for parameter in self.preference.parameters():
                parameter.grad = self.accelerator.reduce(parameter.grad)
            self.lam_optimizer.step()
            self._metrics["train"]["preference/lambda"].append(self.preference.lam.item())
        return out.loss


def digit_share(completions, **columns):
    """Reward: the share of digits."""
    return [sum(map(str.isdigit, text)) / max(1, len(text)) for text in completions]


def main(model: str, folder: str = "runs/trl", num_steps: int = 3) -> LambdaGRPOTrainer:
    """Train for a few steps on sums."""
    args = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=1,
        num_generations=8,
        max_completion_length=32,
        max_steps=num_steps,
        learning_rate=1e-4,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
    )
    data = Dataset.from_list([{"prompt": f"{n}+{n}="} for n in range(32)])
    trainer = LambdaGRPOTrainer(model, reward_funcs=digit_share, args=args, train_dataset=data)
    trainer.train()
    return trainer


if __name__ == "__main__":
    main(sys.argv[1])
