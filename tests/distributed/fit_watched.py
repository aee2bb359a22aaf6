"""Run by a test: two gloo ranks train, and rank 1 sleeps in a phase before its second step.

python -m tests.distributed.fit_watched FOLDER
"""

import sys
import time

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy

from lambda_grpo_pl.callbacks.timing import PhaseTimer, timed
from lambda_grpo_pl.callbacks.watchdog import Watchdog
from lambda_grpo_pl.policy import PolicyConfig
from lambda_grpo_pl.training.module import LambdaGRPO
from tests.scored import ScoredData

TIMEOUT, SLEEP = 8.0, 14.0


class SleepyReward(L.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        with timed(pl_module, "score"):
            if batch_idx == 1 and trainer.global_rank == 1:
                self.wait_for_a_reward_that_hangs()

    def wait_for_a_reward_that_hangs(self) -> None:
        time.sleep(SLEEP)


def main(folder: str) -> None:
    torch.set_num_threads(1)
    trainer = L.Trainer(
        max_steps=2,
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        logger=False,
        callbacks=[Watchdog(TIMEOUT), SleepyReward(), PhaseTimer()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(LambdaGRPO(PolicyConfig(path=folder)), datamodule=ScoredData())


if __name__ == "__main__":
    main(sys.argv[1])
