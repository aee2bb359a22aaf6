"""The bootstrap behind every interval: questions are resampled, and training seeds where there are several.

A score or a difference is a weighted sum over R runs of their mean over Q questions, averaged over benchmarks. Seeds
and questions are crossed (every run answers every question), so one resample draws runs and questions independently; a
run that is drawn is drawn for all benchmarks at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.student import StandardError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A plain average over benchmarks, of one method or of the difference between two."""

    benchmarks: list[Floats]
    """Per benchmark, [R, Q]: value of each run on each question."""
    arms: list[tuple[float, slice]]
    """Sign and rows of each method; seeds are resampled within a method."""

    @classmethod
    def of_scores(cls, benchmarks: Sequence[ArrayLike]) -> Estimate:
        """Return one method's score; each benchmark is [S, Q], or [Q] for one seed."""
        tables = [check_values(values) for values in benchmarks]
        return cls(tables, [(1.0, slice(0, _num_runs(tables)))])

    @classmethod
    def of_difference(
        cls, first: Sequence[ArrayLike], second: Sequence[ArrayLike], paired_seeds: bool = True
    ) -> Estimate:
        """Return (second − first), paired by question, and by seed if `paired_seeds` and both have the same number."""
        before, after = [check_values(values) for values in first], [check_values(values) for values in second]
        sizes = [(one.shape[1], other.shape[1]) for one, other in zip(before, after, strict=True)]
        if any(one != other for one, other in sizes):
            raise ValueError(f"Runs with {sizes} questions cannot be paired: keep the questions that both answered.")
        num_before, num_after = _num_runs(before), _num_runs(after)
        if num_before == num_after and (paired_seeds or num_before == 1):
            tables = [other - one for one, other in zip(before, after, strict=True)]
            return cls(tables, [(1.0, slice(0, num_after))])
        tables = [np.concatenate([one, other]) for one, other in zip(before, after, strict=True)]
        return cls(tables, [(-1.0, slice(0, num_before)), (1.0, slice(num_before, num_before + num_after))])

    @property
    def weights(self) -> Floats:
        """[R] weight of each run: its method's sign over its method's number of seeds."""
        sizes = ((sign, rows.stop - rows.start) for sign, rows in self.arms)
        return np.concatenate([np.full(size, sign / size) for sign, size in sizes])

    @property
    def mean(self) -> float:
        """The estimate itself."""
        return float(np.mean([values.mean() for values in self.per_question()]))

    @property
    def num_questions(self) -> int:
        """Questions of all benchmarks together."""
        return sum(table.shape[1] for table in self.benchmarks)

    @property
    def varies_over_seeds(self) -> bool:
        """Whether a method has several seeds, so that seeds can be resampled."""
        return any(rows.stop - rows.start > 1 for _, rows in self.arms)

    @property
    def is_constant(self) -> bool:
        """Whether there is nothing to resample: no run and no question differs from another of its benchmark."""
        return all(np.ptp(table[rows]) == 0 for table in self.benchmarks for _, rows in self.arms)

    def per_question(self) -> list[Floats]:
        """Return, per benchmark, the estimate of each question, [Q]."""
        return [self.weights @ table for table in self.benchmarks]

    def per_run(self) -> Floats:
        """Return the average of each run, [R]."""
        return np.asarray(np.mean([table.mean(axis=1) for table in self.benchmarks], axis=0), dtype=np.float64)

    def influence(self) -> Floats:
        """Return how much each question and each run moves the estimate, for BCa's acceleration."""
        questions = [(values - values.mean()) / (values.size * len(self.benchmarks)) for values in self.per_question()]
        runs = self.per_run()
        seeds = [self.weights[rows] * (runs[rows] - runs[rows].mean()) for _, rows in self.arms]
        return np.concatenate([*questions, *seeds])

    def standard_error(self) -> StandardError:
        """Return the standard error in its parts: the questions of each benchmark, and the seeds of each method.

        Two-way random effects: the variance over seeds and the variance over questions both hold the residual's. It
        counts with the seeds, whose degrees of freedom are fewer, and is subtracted from the questions; together the
        parts are then unbiased. Nothing is narrower than with the questions and the residual alone.
        """
        runs, arms = self.per_run(), [rows for _, rows in self.arms if rows.stop - rows.start > 1]
        seeds = [(float(runs[rows].var(ddof=1)) / runs[rows].size, runs[rows].size - 1) for rows in arms]
        questions, least = [], []
        for table, values in zip(self.benchmarks, self.per_question(), strict=True):
            if values.size > 1:
                over_questions, freedom = float(values.var(ddof=1)) / values.size, values.size - 1
                residual, weight = sum(_residual_variance(table[rows]) for rows in arms), 1 / len(self.benchmarks) ** 2
                questions.append((weight * max(over_questions - residual, 0.0), freedom))
                least.append((weight * max(over_questions, residual), freedom))
        return StandardError([*questions, *seeds], least)

    def resample(self, num_resamples: int, seed: int) -> Floats:
        """Return `num_resamples` estimates, runs and questions drawn with replacement."""
        random = np.random.default_rng([seed, len(self.benchmarks)])
        weights = np.concatenate(
            [
                sign * random.multinomial(size, np.full(size, 1 / size), num_resamples) / size
                for sign, size in ((sign, rows.stop - rows.start) for sign, rows in self.arms)
            ],
            axis=1,
        )
        draws = [_resample_questions(table, weights, [seed, i]) for i, table in enumerate(self.benchmarks)]
        return np.asarray(np.mean(draws, axis=0), dtype=np.float64)


def check_values(values: ArrayLike) -> Floats:
    """Return the values of S runs on Q questions as float64 [S, Q]; [Q] is one run.

    Raises `UserError` if there is no question or a value is not finite.
    """
    array = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if array.size == 0:
        raise UserError("There is no question to average over: evaluate at least one.")
    if not np.isfinite(array).all():
        raise UserError(
            "The score of a question is not finite: look for a failed verifier or a reward that returns NaN."
        )
    return array


def _num_runs(tables: Sequence[Floats]) -> int:
    (num_runs,) = {table.shape[0] for table in tables}
    return int(num_runs)


def _residual_variance(table: Floats) -> float:
    """Return the variance of the table's mean that neither rows nor columns explain; 0 for one row or column."""
    num_runs, num_questions = table.shape
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    freedom = (num_runs - 1) * (num_questions - 1)
    return float((rest**2).sum() / freedom / table.size) if freedom else 0.0


def _resample_questions(table: Floats, weights: Floats, seed: Sequence[int]) -> Floats:
    """Return one mean per row of `weights`, each over Q questions drawn with replacement.

    Only how often each distinct column is drawn matters, so one multinomial over distinct columns replaces Q draws.
    """
    columns, counts = np.unique(table, axis=1, return_counts=True)
    random = np.random.default_rng(seed)
    num_questions, num_resamples = table.shape[1], len(weights)
    block = max(1, 4_000_000 // counts.size)  # bounds memory: 32 MB of counts at a time
    means = []
    for start in range(0, num_resamples, block):
        chosen = weights[start : start + block]
        drawn = random.multinomial(num_questions, counts / num_questions, len(chosen))
        means.append(((drawn @ columns.T) * chosen).sum(axis=1))
    return np.asarray(np.concatenate(means) / num_questions, dtype=np.float64)
