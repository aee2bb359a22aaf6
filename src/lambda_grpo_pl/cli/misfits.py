"""Packages built for another torch, which fail while something imports them and which this package does not need."""

from __future__ import annotations

import traceback
from importlib.metadata import PackageNotFoundError, version

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""What engines install beside torch. Builds for CPUs and GPUs share a version number, so pip may mix them."""


def describe_misfit(error: BaseException) -> str | None:
    """Return one sentence if a companion of torch could not be imported, with the command that mends it, else None.

    Errors of a companion that was imported without a fault, in a reward for instance, are not its installation's.
    """
    reason: BaseException | None = error
    while reason is not None:
        for frame, _ in traceback.walk_tb(reason.__traceback__):
            package = str(frame.f_globals.get("__name__", "")).split(".")[0]
            if package in COMPANIONS and frame.f_code.co_name == "<module>":
                installed = [name for name in COMPANIONS if _version(name)]
                return (
                    f"{package} {_version(package) or '(of unknown version)'} was built for another torch than the "
                    f"installed {_version('torch')} and cannot be imported ({' '.join(str(reason).split())}). Neither "
                    f"this package nor vLLM needs it for text: `pip uninstall -y {' '.join(installed or [package])}`."
                )
        reason = reason.__cause__ or reason.__context__
    return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
