"""How a dataset was opened: what a run has to keep to open it again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npnet.data.dataset import Dataset
from npnet.schema import checked_fields


@dataclass(frozen=True)
class Source:
    """The arguments of `open_dataset`. `name`: of a dataset, or the absolute path of one."""

    name: str
    stored_size: int | None = None
    val_split: float | None = None
    split_seed: int = 42
    skip_damaged: bool = False

    @property
    def is_path(self) -> bool:
        return self.name.startswith("/")

    @classmethod
    def from_dict(cls, found: Any, where: str) -> "Source | None":
        """What a file says. Raises NpnetError, naming `where`, for what it should not hold."""
        return None if found is None else cls(**checked_fields(cls, found, where))


def name_of(path: Path) -> str:
    """What a dataset at a path is called: as the folder, or as the file without its ending.

    A packed file that lies hidden beside the images has their folder's name.
    """
    if not path.is_dir() and not path.name.startswith("."):
        return path.stem
    folder = path if path.is_dir() else path.parent
    return folder.resolve().name or "images"


def remember(dataset: Dataset, source: Source) -> None:
    """Note how a dataset was opened."""
    vars(dataset)["source"] = source


def source_of(dataset: Dataset) -> Source | None:
    """How a dataset was opened; None of one that a program made itself."""
    source = getattr(dataset, "source", None)
    return source if isinstance(source, Source) else None
