"""The policy: a causal language model that scores response tokens, packed and without ever holding all logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.policy.attention import PACKED
from lambda_grpo_pl.policy.config import PolicyConfig
from lambda_grpo_pl.policy.head import TokenLoss, TokenScores, chunked_logprobs, fused_token_loss
from lambda_grpo_pl.policy.logits import Head, read_logit_transform
from lambda_grpo_pl.policy.packing import ALL, PADDED, Layout, MicroBatch, lay_out, prefix_pays

NO_MASK = (1, 1, 0, 0)
"""An empty 4-d mask makes transformers build none; the packed layout says who sees whom."""


class Policy(nn.Module):
    """Wraps a Hugging Face causal language model.

    `forward` runs the transformer on a `MicroBatch`, then the head at response positions only. Head and transformer
    share one `forward`, so that FSDP2 and DDP see the head's weight where they expect it.
    """

    def __init__(
        self,
        model: nn.Module,
        config: PolicyConfig,
        temperature: float = 1.0,
        layouts: tuple[Layout, ...] | None = None,
        longest_row: int | None = None,
    ) -> None:
        """Wrap `model`.

        Args:
            model: A transformers causal language model, or peft's wrapper of one.
            config: Layout and chunk sizes.
            temperature: Log-probabilities are taken at it.
            layouts: Layouts that give the model's own log-probabilities (`exactness`); None: what its attention takes.
            longest_row: Tokens of prompt and response up to which they do; None: any.
        """
        super().__init__()
        self.model = model
        self.config = config
        self.temperature = temperature
        packs = self.causal_lm.config._attn_implementation == PACKED
        self.layouts: tuple[Layout, ...] = layouts or (ALL if packs else PADDED)
        self.longest_row = longest_row
        self.offloaded = False
        self._transform = read_logit_transform(self.causal_lm.config)
        self._transformer = [torch.compile(self.backbone, dynamic=True) if config.compile else self.backbone]

    @property
    def causal_lm(self) -> Any:
        """The Hugging Face model beneath any LoRA wrapper."""
        wrapped: Any = self.model
        return wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped

    @property
    def backbone(self) -> nn.Module:
        """The transformer without its head."""
        return cast(nn.Module, self.causal_lm.base_model)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Stay where FSDP2 has put the weights if it keeps them in host memory; a trainer would move them."""
        return self if self.offloaded else super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def layout_for(self, prompt_lengths: Tensor, lengths: Tensor) -> Layout:
        """The layout that `config.packing` asks for, decided for this rollout where it says `auto`.

        Shapes: prompt_lengths [B], lengths [N] int64. Raises `UserError` for a row that is longer than `longest_row`.
        """
        longest = int((prompt_lengths.repeat_interleave(len(lengths) // len(prompt_lengths)) + lengths).max())
        if self.longest_row is not None and longest > self.longest_row:
            raise UserError(
                f"A prompt with its response has {longest} tokens. Beyond {self.longest_row} tokens the rotary "
                f"frequencies of {self.config.path} depend on the other rows of a batch: lower "
                "rollout.sampling.max_tokens or data.max_prompt_tokens."
            )
        if self.config.packing != "auto":
            return self.config.packing
        if "shared_prefix" in self.layouts and prefix_pays(prompt_lengths, lengths):
            return "shared_prefix"
        return "packed" if "packed" in self.layouts else "padded"

    def forward(self, batch: MicroBatch, token_loss: TokenLoss | None = None) -> tuple[Tensor, TokenScores]:
        """Score the M response tokens of a micro-batch.

        With `token_loss` (elementwise) the result is its sum, differentiable, and detached scores: one fused pass.
        Without, the loss is 0 and the scores are differentiable.
        """
        hidden = self._hidden(batch).flatten(0, 1)[batch.predictor]
        output = self.causal_lm.get_output_embeddings()
        bias = getattr(output, "bias", None)
        head = Head(output.weight, bias, self.temperature, self.config.head_chunk, *self._transform)
        if token_loss is None:
            return hidden.new_zeros(()), chunked_logprobs(hidden, batch.labels, head)
        return fused_token_loss(hidden, batch.labels, head, token_loss)

    def _hidden(self, batch: MicroBatch) -> Tensor:
        layout: dict[str, Any] = {"attention_mask": batch.attention_mask}
        if batch.layout is not None:
            empty = torch.empty(NO_MASK, dtype=torch.bool, device=batch.input_ids.device)
            layout = {"attention_mask": empty, "packed_layout": batch.layout}
        output = self._transformer[0](
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **layout
        )
        return cast(Tensor, output.last_hidden_state)

    def without_adapters(self) -> AdaptersOff:
        """The policy with its LoRA adapters off: the reference model that costs no memory."""
        return AdaptersOff(self)

    @torch.no_grad()
    def sequence_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability (nats, at temperature 1) of each token after the first, for each sequence."""
        device = next(self.parameters()).device
        width = max(map(len, sequences))
        first = torch.tensor([[sequence[0]] for sequence in sequences], device=device)
        rest = torch.tensor([[*s[1:], *([0] * (width - len(s)))] for s in sequences], device=device)
        lengths = torch.tensor([len(s) - 1 for s in sequences], device=device)
        prompts = Prompts(first, torch.ones_like(lengths), tuple({} for _ in sequences))
        responses = Completions(rest, lengths, torch.zeros_like(lengths, dtype=torch.bool), torch.zeros_like(rest))
        rows = torch.arange(len(sequences), device=device)
        with self._at_temperature(1.0):
            _, scores = self(lay_out(prompts, responses, rows, "packed" if "packed" in self.layouts else "padded"))
        return [part.tolist() for part in scores.logprobs.split(lengths.tolist())]

    @contextmanager
    def _at_temperature(self, temperature: float) -> Iterator[None]:
        before, self.temperature = self.temperature, temperature
        try:
            yield
        finally:
            self.temperature = before


class AdaptersOff:
    """Scores with a LoRA policy's base weights."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __call__(self, batch: MicroBatch) -> tuple[Tensor, TokenScores]:
        """Score the response tokens of a micro-batch."""
        with cast(Any, self.policy.model).disable_adapter():
            return cast(tuple[Tensor, TokenScores], self.policy(batch))

    def to(self, device: torch.device) -> AdaptersOff:
        """The policy is where it is."""
        return self


Reference = Policy | AdaptersOff
