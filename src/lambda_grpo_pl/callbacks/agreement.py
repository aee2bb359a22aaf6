"""Whether what samples, what reads and what trains agree, asked before a model is loaded.

The command line links the settings that these parts share; from Python each part is made by itself.
"""

from __future__ import annotations

from lambda_grpo_pl.callbacks.module_view import AdvantageView, TrainedModule
from lambda_grpo_pl.data.module import PromptDataModule
from lambda_grpo_pl.data.tokenizer import load_tokenizer
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling import SamplingSettings


def check_agreement(module: TrainedModule, data: PromptDataModule, sampling: SamplingSettings) -> None:
    """Refuse a fit whose module, data and sampling do not fit each other. Raises `UserError`."""
    check_group(sampling, module.objective.advantage)
    check_training_sampling(sampling, module.temperature, module.objective.surrogate.is_correction)
    _check_tokenizer(module, data)


def check_group(sampling: SamplingSettings, advantage: AdvantageView) -> None:
    """Refuse groups in which nothing can be compared. Raises `UserError`."""
    if sampling.num_samples == 1 and (advantage.scale == "group" or advantage.baseline != "none"):
        raise UserError(
            "rollout.sampling.num_samples is 1, but a response is compared with its group: set it to 2 or more, or set "
            "model.objective.advantage.baseline to none and scale to batch or none."
        )
    if sampling.temperature == 0:
        raise UserError(
            "rollout.sampling.temperature is 0: all responses of a group would be the same; set it to 1.0 for training "
            "(evaluation has its own settings)."
        )


def check_training_sampling(sampling: SamplingSettings, temperature: float, is_correction: str) -> None:
    """Refuse samples of another distribution than the one whose log-probabilities train. Raises `UserError`.

    The probabilities of nucleus and top-k sampling are renormalized, the trainer's are not: without importance weights
    the gradient is biased. The command line links the two temperatures; Python users set both.
    """
    if sampling.temperature != temperature:
        raise UserError(
            f"RolloutCallback samples at temperature {sampling.temperature:g}, but LambdaGRPO takes "
            f"log-probabilities at {temperature:g}: pass the same temperature to both."
        )
    keys = {"top_p": sampling.top_p < 1, "top_k": sampling.top_k > 0}
    if is_correction == "none" and any(keys.values()):
        key = next(name for name, is_set in keys.items() if is_set)
        raise UserError(
            f"rollout.sampling.{key} is {getattr(sampling, key)}, so responses come from another distribution than the "
            f"policy's: set it to {SamplingSettings.__dataclass_fields__[key].default} for training, or set "
            "model.objective.surrogate.is_correction to truncate or mask."
        )


def _check_tokenizer(module: TrainedModule, data: PromptDataModule) -> None:
    """Refuse prompts that are read with the tokenizer of another vocabulary than the policy's."""
    policy = module.policy_config
    if (data.tokenizer_path, data.revision) == (policy.path, policy.revision):
        return
    own = load_tokenizer(policy.path, policy.revision, data.trust_remote_code)
    if own.get_vocab() != data.tokenizer.get_vocab():
        raise UserError(
            f"PromptDataModule reads prompts with the tokenizer of {data.tokenizer_path}, but LambdaGRPO trains "
            f"{policy.path}, whose tokenizer has other tokens: pass the same model to both."
        )
