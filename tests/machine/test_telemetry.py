"""What a run says about itself."""

import shutil
from pathlib import Path

import pytest

import npnet
from npnet.machine.telemetry import source_digest


@pytest.mark.parametrize("name", ["trainer.py", "kernels/jit/block.py", "cli/train.py"])
def test_any_source_file_changes_the_code_s_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Behind the two links as well; a copy without links, as a wheel installs it, is the same."""
    here = source_digest()
    copy = shutil.copytree(Path(npnet.__file__).parent, tmp_path / "npnet")
    monkeypatch.setattr(npnet, "__file__", str(copy / "__init__.py"))
    assert source_digest() == here
    with (copy / name).open("a") as file:
        file.write("# a comment\n")
    assert source_digest() != here
