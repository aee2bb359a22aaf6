"""A torchvision for another torch, which pip puts beside torch's CPU build, is one sentence with the command to run."""

import importlib
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from lambda_grpo_pl.cli import entry

REGISTERS = "import torch\n@torch.library.register_fake('torchvision::nms')\ndef nms(): ...\n"
"""What torchvision does when it is imported; without its compiled operators torch refuses."""


@pytest.fixture
def torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name whose operators were built for another torch."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("from torchvision import registrations\n", encoding="utf-8")
    (package / "registrations.py").write_text(REGISTERS, encoding="utf-8")
    info = tmp_path / "torchvision-0.28.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("torchvision", "torchvision.registrations"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return package


def _start(monkeypatch: pytest.MonkeyPatch, code: str) -> int:
    def run(arguments: list[str]) -> int:
        exec(code, {"__name__": "reward"})
        return 0

    monkeypatch.setattr(entry, "_dispatch", run)
    monkeypatch.setattr(sys, "argv", ["lambda-grpo", "fit"])
    monkeypatch.delenv("LAMBDA_GRPO_DEBUG", raising=False)
    return entry.main()


def test_a_torchvision_for_another_torch_is_named_with_the_remedy(
    torchvision: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _start(monkeypatch, "import torchvision") == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"lambda-grpo: torchvision 0.28.0 was built for another torch than the installed {version('torch')}"
    )
    assert "`pip uninstall -y torchvision`" in said
    assert len(said.splitlines()) == 1


def test_it_is_found_behind_the_error_of_a_library_that_imports_it(
    torchvision: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "try:\n import torchvision\nexcept RuntimeError as error:\n raise ImportError('PreTrainedModel') from error"
    assert _start(monkeypatch, code) == 2
    assert "pip uninstall -y torchvision" in capsys.readouterr().err


def test_an_error_inside_a_torchvision_that_works_keeps_its_traceback(
    torchvision: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (torchvision / "registrations.py").write_text("def nms(): raise RuntimeError('boxes')\n", encoding="utf-8")
    importlib.invalidate_caches()
    with pytest.raises(RuntimeError, match="boxes"):
        _start(monkeypatch, "from torchvision import registrations; registrations.nms()")
