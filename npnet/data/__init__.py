"""Datasets: CIFAR-10 and CIFAR-100 from files, `shapes` drawn on the spot, folders of images.

And their batches.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from npnet.data.dataset import Dataset
from npnet.data.folder import is_text
from npnet.data.source import Source, remember
from npnet.errors import NpnetError

if TYPE_CHECKING:
    from npnet.data.packing import Packing

DATASETS = ("shapes", "cifar10", "cifar100")
STORED_SIZE = 146  # pixels across: what leaves room to crop for networks of 128, as `stored_for`


def open_dataset(
    name: str | Path,
    data_dir: Path | None = None,
    *,
    stored_size: int | None = None,
    val_split: float | None = None,
    split_seed: int = 42,
    skip_damaged: bool = False,
    packing: "Packing | None" = None,
) -> Dataset:
    """The dataset called `name`; for CIFAR, looked for in `data_dir` or the usual places.

    `name` may also be a folder of images (see folder.py), a file that one was packed in, or an .npz
    as Keras has them. A folder is packed the first time, with images `stored_size` pixels across
    (STORED_SIZE); `packing` is told of it. `skip_damaged` leaves out what is no usable image.
    `val_split`: the part of each class's training images that is held out as `val`, by
    `split_seed`. Raises NpnetError if there is no such dataset, or if it is not as it should be.
    """
    if name in DATASETS:
        if stored_size is not None:
            raise NpnetError(f"`stored_size` is for folders of images, {name} has its own")
        source = Source(str(name), val_split=val_split, split_seed=split_seed)
        dataset = _built_in(str(name), data_dir)
    else:
        path = Path(name).expanduser()
        if isinstance(name, str) and not path.exists() and "/" not in name:
            raise NpnetError(
                f"unknown dataset {name!a}: choose one of {', '.join(DATASETS)}, or give the path "
                "of a folder of images"
            )
        place = str(path.absolute())
        if not is_text(place):  # checkpoints say where their images lay
            raise NpnetError(f"{place} cannot be written as UTF-8: rename its folder or file")
        dataset = _at(path, stored_size, skip_damaged, packing)
        size = dataset.image_size if path.is_dir() else None
        source = Source(place, size, val_split, split_seed, skip_damaged)
    if val_split is not None:
        from npnet.data.held_out import HeldOut

        dataset = HeldOut(dataset, val_split, split_seed)
    remember(dataset, source)
    return dataset


def stored_for(input_size: int) -> int:
    """The stored size for a network's input: as usual, 256 for 224 and so 146 for 128 pixels."""
    return round(input_size / 0.875)


def _built_in(name: str, data_dir: Path | None) -> Dataset:
    if name == "shapes":
        from npnet.data.shapes import Shapes

        return Shapes()
    from npnet.data.cifar import find

    return find(name, data_dir)


def _at(
    path: Path, stored_size: int | None, skip_damaged: bool, packing: "Packing | None"
) -> Dataset:
    if path.is_dir():
        from npnet.data.packing import open_folder

        return open_folder(path, stored_size or STORED_SIZE, skip_damaged, packing)
    if not path.exists():
        meant = f", or `dataset` the name {path.name}" if path.name in DATASETS else ""
        raise NpnetError(f"there is no {path}: give `data` the path of a folder of images{meant}")
    dataset: Dataset
    if path.suffix == ".npz":
        from npnet.data.npz import KerasArrays

        dataset = KerasArrays(path)
    else:
        from npnet.data.packed import PackedImages

        dataset = PackedImages(path)
    if stored_size not in (None, dataset.image_size):
        raise NpnetError(
            f"{path} holds images of {dataset.image_size} pixels across, not of `stored_size` "
            f"{stored_size}: leave that out, or give the folder of the images"
        )
    return dataset
