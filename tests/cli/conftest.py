"""What tests of commands share."""

from pathlib import Path

import pytest

from tests.cifar_files import write_cifar


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder to run in: its data/ holds a tiny CIFAR-10, and nothing else is there."""
    write_cifar(tmp_path / "data")
    return tmp_path
