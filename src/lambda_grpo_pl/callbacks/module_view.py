"""What callbacks may read of the module that trains: protocols, since callbacks never import it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import nn

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.rollout.run_context import SampledPolicy


class TrainablePolicy(SampledPolicy, Protocol):
    """The policy: what an engine reads, and its parameters."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters, frozen ones included."""
        ...


class SurrogateView(Protocol):
    """`model.objective.surrogate`."""

    @property
    def clip_low(self) -> float:
        """ε below 1."""
        ...

    @property
    def clip_high(self) -> float:
        """ε above 1."""
        ...

    @property
    def kl_coef(self) -> float:
        """β of the KL term."""
        ...

    @property
    def is_correction(self) -> str:
        """Importance weights for stale rollouts: `none`, `truncate` or `mask`."""
        ...

    @property
    def is_cap(self) -> float:
        """Largest importance weight."""
        ...


class AdvantageView(Protocol):
    """`model.objective.advantage`."""

    @property
    def baseline(self) -> str:
        """What is subtracted from a reward; `none` if nothing is."""
        ...

    @property
    def scale(self) -> str:
        """What the difference is divided by: `group`, `batch` or `none`."""
        ...


class ObjectiveView(Protocol):
    """`model.objective`."""

    @property
    def advantage(self) -> AdvantageView:
        """How rewards become advantages."""
        ...

    @property
    def surrogate(self) -> SurrogateView:
        """Clipping, KL term and importance-sampling correction."""
        ...

    @property
    def token_count(self) -> str:
        """What Z counts."""
        ...


class PreferenceConfigView(Protocol):
    """`model.preference`."""

    @property
    def family(self) -> str:
        """Form of f."""
        ...

    @property
    def lr(self) -> float:
        """Learning rate of λ."""
        ...

    @property
    def learn(self) -> str:
        """How λ learns; `fixed` if it does not."""
        ...

    @property
    def has_gradient(self) -> bool:
        """Whether λ has an optimizer."""
        ...

    @property
    def contextual(self) -> bool:
        """Whether λ depends on the prompt."""
        ...


class PreferenceView(Protocol):
    """The length preference."""

    @property
    def config(self) -> PreferenceConfigView:
        """Its settings."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """λ's parameters, frozen ones included."""
        ...


class LensView(Protocol):
    """`model.lens`."""

    @property
    def methods(self) -> Sequence[str]:
        """Their names; empty if there are none."""
        ...


class UpdatesView(Protocol):
    """`model.updates`."""

    @property
    def num_epochs(self) -> int:
        """Passes over a rollout."""
        ...

    @property
    def num_minibatches(self) -> int:
        """Parts of a rollout, one update each."""
        ...

    @property
    def per_rollout(self) -> int:
        """Policy updates per rollout."""
        ...


class OptimizerView(Protocol):
    """`model.optimizer`."""

    @property
    def lr(self) -> float:
        """Learning rate after the warm-up."""
        ...

    @property
    def warmup_steps(self) -> int:
        """Updates over which the learning rate rises."""
        ...

    @property
    def schedule(self) -> str:
        """How the learning rate falls afterwards."""
        ...


class PolicyConfigView(Protocol):
    """`model.policy`."""

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit on the hub."""
        ...

    @property
    def path(self) -> str:
        """Folder or hub id of the model."""
        ...


class TrainedModule(Protocol):
    """What callbacks may read of the module that trains, `LambdaGRPO`."""

    def rehearse(self, batch: RolloutBatch) -> None:
        """Pass a scored batch forward and backward, with no step, and leave nothing behind."""
        ...

    @property
    def policy(self) -> TrainablePolicy:
        """The language model; there after `configure_model`."""
        ...

    @property
    def policy_config(self) -> PolicyConfigView:
        """How it was loaded."""
        ...

    @property
    def preference(self) -> PreferenceView:
        """The weights f and their parameter λ."""
        ...

    @property
    def method_name(self) -> str:
        """What tables and dashboards call the method."""
        ...

    @property
    def objective(self) -> ObjectiveView:
        """What is trained."""
        ...

    @property
    def lens(self) -> LensView:
        """Other length preferences to compare."""
        ...

    @property
    def optimizer_config(self) -> OptimizerView:
        """The policy's optimizer."""
        ...

    @property
    def updates(self) -> UpdatesView:
        """Updates per rollout."""
        ...

    @property
    def temperature(self) -> float:
        """At which log-probabilities are taken."""
        ...

    @property
    def token_budget(self) -> int:
        """Tokens of a micro-batch."""
        ...
