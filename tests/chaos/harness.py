"""Runs that are killed and resumed, in processes that the harness starts and ends."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.kill_points import VARIABLE, Kill, Measured, read_measured
from tests.chaos.outcome import differences
from tests.chaos.victim import run_forked
from tests.distributed.fit_resumable import STRATEGIES
from tests.integration.runs import ROOT, arguments

OPTIONS = [
    "--trainer.callbacks=null",
    "--trainer.max_steps=8",
    "--trainer.val_check_interval=2",
    "--trainer.num_sanity_val_steps=-1",
    "--data.val=[{split: test, limit: 4}]",
    "--model.updates.num_minibatches=2",
    "--model.preference.contextual=true",
    "--model.preference.lr=5.0",
    "--dynamic_sampling.max_rounds=1",
    "--reward.functions=[{name: tests.integration.runs.digit_share}]",
    "--checkpoint.every=1",
    "--monitor.curve_every=1",
    "--plan.show=false",
    "--summary.show=false",
    "--evaluation.to_terminal=false",
]
KINDS: dict[str, list[str]] = {
    "one rank": [],
    "two ranks": ["--trainer.devices=2", f"--trainer.strategy={STRATEGIES['ddp']}"],
    "two ranks, sharded": ["--trainer.devices=2", f"--trainer.strategy={STRATEGIES['fsdp2']}"],
    "one step ahead": ["--one_step_off.enabled=true", "--model.objective.surrogate.is_correction=truncate"],
}
"""Kind of run → its options."""
IN_ANOTHER_PROCESS = {"one step ahead": {"sample"}}
"""Phases that the killed process does not run itself."""
FORKED = {"one rank"}
"""Kinds of run that need one process."""
MAX_SECONDS = 600


@dataclass
class Result:
    """One run that was killed and resumed."""

    kind: str
    kill: Kill
    killed: bool = False
    """Whether it died there; it may end before."""
    resumed_from: str = ""
    differences: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """One line."""
        where = f"{self.kind}: {self.kill.phase}, call {self.kill.call}, {1000 * self.kill.delay:.1f} ms"
        outcome = "equal" if not self.differences else "DIFFERS: " + "; ".join(self.differences[:4])
        died = f"killed, resumed from {self.resumed_from}" if self.killed else "ended before"
        return f"{where} (rank {self.kill.rank}): {died}: {outcome}"


class Harness:
    """Makes the undisturbed run of each kind once, and compares with it."""

    def __init__(self, policy: Path, folder: Path, options: list[str] | None = None) -> None:
        """Work in a folder with the tiny policy of another one."""
        self.policy, self.folder = policy, folder
        self.options = OPTIONS if options is None else options
        self._measured: dict[str, dict[str, Measured]] = {}

    def whole(self, kind: str) -> Path:
        """Return the folder of the undisturbed run."""
        folder = self.folder / f"whole {kind}".replace(" ", "-").replace(",", "")
        if kind not in self._measured:
            out = folder.with_suffix(".json")
            status, said = self._run(kind, folder, str(out))
            assert status == 0, said
            self._measured[kind] = read_measured(out)
        return folder

    def draw(self, kind: str, chance: random.Random, phase: str | None = None) -> Kill:
        """Choose a moment of a run."""
        self.whole(kind)
        measured = self._measured[kind]
        possible = sorted(set(measured) - IN_ANOTHER_PROCESS.get(kind, set()))
        phase = phase or chance.choice(possible)
        calls, seconds = measured[phase]
        rank = chance.randrange(2) if "two ranks" in kind and phase in ("sample", "backward", "policy step") else 0
        return Kill(phase, chance.randint(1, calls), chance.uniform(0.0, seconds), rank)

    def kill_and_resume(self, kind: str, kill: Kill, name: str) -> Result:
        """Kill a run, resume it until it ends, and compare it with the undisturbed one."""
        folder, result = self.folder / name, Result(kind, kill)
        status, said = self._run(kind, folder, json.dumps(kill))
        result.killed = status == -signal.SIGKILL or (kill.rank > 0 and status != 0)
        if status != 0 and not result.killed:
            result.differences = [f"exit status {status}: {said[-2000:]}"]
            return result
        if result.killed:
            has_state = any((folder / "checkpoints").glob("*.ckpt"))
            status, said = self._run(kind, folder, None, *["--resume"] * has_state)
            lines = [line for line in said.splitlines() if line.startswith("Resuming from ")]
            result.resumed_from = Path(lines[0].removesuffix(".")).name if lines else "the start"
            if status != 0:
                result.differences = [f"resuming ended with {status}: {said[-2000:]}"]
                return result
        result.differences = differences(self.whole(kind), folder)
        return result

    def _run(self, kind: str, folder: Path, kill: str | None, *options: str) -> tuple[int, str]:
        """Run the command line; everything it started is gone when this returns."""
        words = arguments("fit", self.policy, folder, *self.options, *KINDS[kind], *options)
        words = [word for word in words if word != "--trainer.logger=false"]
        csv = f"{{class_path: lambda_grpo_pl.callbacks.RunCSVLogger, init_args: {{save_dir: {folder}}}}}"
        words.append(f"--trainer.logger=[{csv}]")
        environment = {} if kill is None else {VARIABLE: kill}
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.parent / f"{folder.name}.log"
        if kind in FORKED:
            leader = run_forked(words, environment, log)
        else:
            command = [sys.executable, "-m", "tests.chaos.victim", *words]
            everything = os.environ | {"OMP_NUM_THREADS": "1"} | environment
            with log.open("w") as file:
                leader = subprocess.Popen(
                    command, cwd=ROOT, env=everything, stdout=file, stderr=file, start_new_session=True
                ).pid
        try:
            status = _wait(leader)
        finally:
            _end_group(leader)
        return status, log.read_text(encoding="utf-8")


def _wait(process: int) -> int:
    """Return how a child process ended: its exit status, or minus the signal. Raises `TimeoutError`."""
    patience = time.monotonic() + MAX_SECONDS
    while time.monotonic() < patience:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    raise TimeoutError(f"process {process} still runs after {MAX_SECONDS} s")


def _end_group(leader: int) -> None:
    """Kill what is left of a process group: the other rank of one that died, or a sampler."""
    for _ in range(50):
        try:
            os.killpg(leader, signal.SIGKILL)
        except ProcessLookupError:
            return
        time.sleep(0.05)
