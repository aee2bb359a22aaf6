"""Sampling with the policy itself: needs no engine, no second copy of the weights and no sync.

`generate()` of transformers decodes every row until the longest has ended and prefills each prompt once per response.
This loop prefills once per prompt and removes a row from the batch and the key-value cache when it ends, so it computes
no padding after a response. Not supported: beam search, stop strings, static caches, speculative decoding.

Randomness is one uniform number per (row, token), drawn on the CPU before the first step and turned into a token by the
inverse of the cumulative distribution. A row's draws thus depend on neither the device nor on which other rows are
still running, nor on how many rows run at a time.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PretrainedConfig

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.decoding import GroupListener, RunningRows, draw, evaluating
from lambda_grpo_pl.sampling.protocol import OnGroup, SyncReport
from lambda_grpo_pl.sampling.weights import base_model, policy_weights
from lambda_grpo_pl.sampling_settings import SamplingSettings


class TransformersSampler:
    """Samples with a transformers causal language model, plain or wrapped by peft, in training or evaluation mode.

    Example:
        >>> sampler = TransformersSampler(eos_token_ids=[tokenizer.eos_token_id], pad_token_id=tokenizer.pad_token_id)
        >>> sampler.sync(model)
        >>> completions = sampler.generate(prompts, SamplingSettings(max_tokens=64, num_samples=8), seed=0)
    """

    def __init__(
        self,
        eos_token_ids: Sequence[int],
        pad_token_id: int,
        max_rows: int = 1024,
        config: PretrainedConfig | None = None,
    ) -> None:
        """Set the tokens that end a response, the padding, and how many responses decode at a time.

        `max_rows` bounds the key-value cache: it changes memory and speed and, except for rounding, no token. With a
        transformers `config` the sampler builds a separate model, float32 and on the GPU if there is one, for weights
        that it will `receive`.
        """
        if max_rows < 1:
            raise ValueError(f"max_rows is {max_rows}: set it to 1 or more.")
        self.eos_token_ids = tuple(eos_token_ids)
        self.pad_token_id = pad_token_id
        self.max_rows = max_rows
        self.last_sync: SyncReport | None = None
        self._policy: nn.Module | None = None
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._replica = None if config is None else _model(config, torch.float32, device)

    def sync(self, policy: nn.Module) -> SyncReport:
        """Sample from this very module from now on, so that later updates need no copy.

        A sharded policy (FSDP2, tensor parallel) is gathered into a copy instead: its forward pass is collective, and
        ranks whose responses end at different lengths would wait for each other forever.
        """
        if any(isinstance(weight, DTensor) for weight in policy.parameters()):
            self._replica = self._replica or _copy_architecture(policy)
            return self.receive(policy_weights(policy))
        self._policy = policy
        self.last_sync = SyncReport(seconds=0.0, num_bytes=0, sent=(), missing=())
        return self.last_sync

    def receive(self, weights: Iterable[tuple[str, Tensor]], expected: Collection[str] | None = None) -> SyncReport:
        """Copy (name, unsharded tensor) pairs into the sampler's own model, as `ReceivingSampler.receive` describes."""
        assert self._replica is not None, "build the sampler with a config, or sync a sharded policy"
        start = time.perf_counter()
        state, sent = self._replica.state_dict(), dict[str, int]()
        for name, weight in weights:
            state[name].copy_(weight)
            sent[name] = weight.numel() * weight.element_size()
        missing = tuple(name for name in (state if expected is None else expected) if name not in sent)
        self._policy = self._replica
        self.last_sync = SyncReport(time.perf_counter() - start, sum(sent.values()), tuple(sent), missing)
        return self.last_sync

    @torch.no_grad()
    def generate(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Completions:
        """Sample as `Sampler.generate` describes.

        Raises:
            ValueError: Before the first `sync`.
            UserError: If a prompt and its response exceed the model's positions.
        """
        policy = self._require_policy()
        _require_positions(base_model(policy).config, int(prompts.lengths.max()), settings.max_tokens)
        device = next(policy.parameters()).device
        num_prompts, group = len(prompts.lengths), settings.num_samples
        noise = torch.rand(num_prompts * group, settings.max_tokens, generator=torch.Generator().manual_seed(seed))
        stride = max(1, self.max_rows // group)
        with evaluating(policy):
            parts = [
                self._decode(
                    policy,
                    prompts.ids[first : first + stride].to(device),
                    prompts.lengths[first : first + stride].to(device),
                    settings,
                    noise[first * group : (first + stride) * group].to(device),
                    None if on_group is None else _renumbered(first, on_group),
                )
                for first in range(0, num_prompts, stride)
            ]
        joined = Completions(*(torch.cat(field) for field in zip(*parts, strict=True)))
        longest = int(joined.lengths.max())
        trimmed = joined._replace(ids=joined.ids[:, :longest], logprobs=joined.logprobs[:, :longest])
        return Completions(*(field.to(prompts.ids.device) for field in trimmed))

    @torch.no_grad()
    def probe(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score sequences as `Sampler.probe` describes, one at a time, without padding or cache."""
        policy = self._require_policy()
        device = next(policy.parameters()).device
        scores = []
        with evaluating(policy):
            for sequence in token_ids:
                ids = torch.tensor([list(sequence)], device=device)
                logprobs = policy(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
                scores.append(logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist())
        return scores

    def sleep(self) -> None:
        """Nothing to free: the weights are the policy's own."""

    def close(self) -> None:
        """Drop the policy and its copy."""
        self._policy = self._replica = None

    def _require_policy(self) -> nn.Module:
        if self._policy is None:
            raise ValueError("The sampler has no weights yet: call sync(policy) before the first generate or probe.")
        return self._policy

    def _decode(
        self,
        policy: nn.Module,
        ids: Tensor,
        prompt_lengths: Tensor,
        settings: SamplingSettings,
        noise: Tensor,
        on_group: OnGroup | None,
    ) -> Completions:
        """Decode prompts [b, P] into b·G rows padded to `max_tokens`, with noise [b·G, max_tokens] in [0, 1)."""
        num_rows, max_tokens = noise.shape
        eos = torch.tensor([*self.eos_token_ids, *settings.stop_token_ids], dtype=torch.long, device=ids.device)
        out_ids = ids.new_full((num_rows, max_tokens), self.pad_token_id)
        out_logprobs = torch.zeros(num_rows, max_tokens, device=ids.device)
        lengths = ids.new_full((num_rows,), max_tokens)
        truncated = torch.ones(num_rows, dtype=torch.bool, device=ids.device)
        result = Completions(out_ids, lengths, truncated, out_logprobs)
        listener = None if on_group is None else GroupListener(on_group, result, settings.num_samples)

        rows = RunningRows.prefill(policy, ids, prompt_lengths)
        running = torch.arange(num_rows, device=ids.device)  # the output row that each row of the cache belongs to
        rows.select(running // settings.num_samples)
        for step in range(max_tokens):
            token, logprob = draw(rows.logits, settings, noise[running, step])
            out_ids[running, step] = token
            out_logprobs[running, step] = logprob
            ended = torch.isin(token, eos)
            if ended.any():
                lengths[running[ended]] = step + 1
                truncated[running[ended]] = False
                keep = (~ended).nonzero()[:, 0]
                running, token = running[keep], token[keep]
                rows.select(keep)
                if listener is not None:
                    listener.report_ended(running)
            if len(running) == 0 or step + 1 == max_tokens:
                break
            rows.advance(token)
        if listener is not None:
            listener.report_ended(running[:0])
        return result


def _require_positions(config: PretrainedConfig, longest_prompt: int, max_tokens: int) -> None:
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and longest_prompt + max_tokens > positions:
        raise UserError(
            f"The longest prompt ({longest_prompt} tokens) plus max_tokens ({max_tokens}) exceeds the model's "
            f"{positions} positions: lower rollout.sampling.max_tokens (in evaluation, "
            "evaluation.overrides.max_tokens) or data.rules.max_prompt_tokens."
        )


def _renumbered(first: int, on_group: OnGroup) -> OnGroup:
    """Report groups 0, 1, … as `first`, `first` + 1, …"""
    return lambda number, group: on_group(first + number, group)


def _copy_architecture(policy: nn.Module) -> nn.Module:
    """Build a model of the same configuration, type and device, whose weights are still to be loaded."""
    weight = next(policy.parameters())
    return _model(base_model(policy).config, weight.dtype, weight.device)


def _model(config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Build a model with torch's own attention: the policy's may be one that only the trainer knows.

    torch's fused attention can neither cap scores (Gemma 2) nor add sinks (gpt-oss); eager attention can.
    """
    needs_eager = getattr(config, "attn_logit_softcapping", None) is not None or config.model_type == "gpt_oss"
    attention = "eager" if needs_eager else "sdpa"
    with torch.random.fork_rng():
        model: nn.Module = AutoModelForCausalLM.from_config(
            deepcopy(config), dtype=dtype, attn_implementation=attention
        )
    return model.to(device).eval().requires_grad_(False)
