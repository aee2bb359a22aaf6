"""Checkpoints from one world in another: a folder of shards, which FSDP2 writes and reads, or one file, for all else.

Both hold the same: weights, optimizer states, and what Lightning and the callbacks add. A folder names the states of an
optimizer by parameter, a file numbers them; `PARAMETERS` in the file says which number is which.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict_saver import save

from lambda_grpo_pl.callbacks.checkpoint_io import SHARED_STATE, DurableCheckpointIO, measure, write_checksums
from lambda_grpo_pl.errors import UserError

PARAMETERS = "optimizer_parameters"
"""Key of a checkpoint: the names of each optimizer's parameters, in its order."""
WEIGHTS, OPTIMIZER, STATES = "state_dict", "optimizer_", "optimizer_states"


def name_optimized(trainer: L.Trainer, module: L.LightningModule) -> list[list[str]]:
    """Return the names of each optimizer's parameters, in the order in which their states are numbered."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [
        [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
        for optimizer in trainer.optimizers
    ]


def merge_shards(folder: Path, target: Path) -> None:
    """Write the checkpoint in `folder` as the file `target`; reads all of it into memory."""
    with TemporaryDirectory(dir=target.parent) as place:
        whole = Path(place) / "whole.pt"
        dcp_to_torch_save(folder, whole)
        state = torch.load(whole, map_location="cpu", mmap=True, weights_only=True)
        checkpoint = torch.load(folder / SHARED_STATE, map_location="cpu", weights_only=True)
        optimizers = [state[key] for key in sorted(state) if key.startswith(OPTIMIZER)]
        checkpoint[WEIGHTS] = state[WEIGHTS]
        checkpoint[STATES] = [_number(optimizer) for optimizer in optimizers]
        DurableCheckpointIO().save_checkpoint(checkpoint, target)


def split_file(file: Path, folder: Path) -> None:
    """Write the checkpoint `file` into the empty `folder`, as one rank would; FSDP2 gives every rank its part.

    Raises `UserError` for a file that does not name the optimizers' parameters.
    """
    checkpoint = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    if PARAMETERS not in checkpoint:
        raise UserError(
            f"{file} was written by an earlier version and does not say which optimizer state belongs to which "
            "parameter, so FSDP2 cannot continue from it: continue on one device or under DDP."
        )
    state: dict[str, Any] = {WEIGHTS: checkpoint.pop(WEIGHTS)}
    for index, (optimizer, names) in enumerate(zip(checkpoint.pop(STATES), checkpoint[PARAMETERS], strict=True)):
        state[f"{OPTIMIZER}{index}"] = _rekey(optimizer, dict(enumerate(names)))
    save(state, checkpoint_id=folder, no_dist=True)
    torch.save(checkpoint, folder / SHARED_STATE)
    write_checksums(folder, {each.name: measure(each) for each in sorted(folder.iterdir())})


def _number(optimizer: dict[str, Any]) -> dict[str, Any]:
    names = [name for group in optimizer["param_groups"] for name in group["params"]]
    return _rekey(optimizer, {name: number for number, name in enumerate(names)})


def _rekey(optimizer: dict[str, Any], keys: Mapping[Any, Any]) -> dict[str, Any]:
    """Return an optimizer's state with other keys for its parameters; plain SGD has none on shards."""
    return {
        "state": {keys[key]: state for key, state in optimizer.get("state", {}).items()},
        "param_groups": [
            {**group, "params": [keys[key] for key in group["params"]]} for group in optimizer["param_groups"]
        ],
    }
