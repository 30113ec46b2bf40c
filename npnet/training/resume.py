"""What a run goes on from: a checkpoint, or the folder of a run, and what that run was."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from npnet.data.source import Source
from npnet.errors import NpnetError
from npnet.model.config import ModelConfig
from npnet.schema import checked_fields, known_fields
from npnet.training.checkpoint import Checkpoint, load
from npnet.training.reached import Done, reached_in
from npnet.training.recipe import BATCH_PER_RANK, Recipe
from npnet.training.run_folder import RunFolder, Stamp
from npnet.training.settings import Settings
from npnet.untrusted import read_object


@dataclass(frozen=True)
class Origin:
    """A run that is to go on. `said` are lines about what was found.

    `checkpoint` is None where the run was killed before its first one: it begins once more.
    `data_dir`: where the dataset lay, if that is known.
    """

    path: Path
    dataset: str
    data_dir: Path | None
    model: ModelConfig
    recipe: Recipe
    settings: Settings
    world: int
    source: Source  # how the dataset was opened; of an older npnet its name alone
    checkpoint: Checkpoint | None
    said: tuple[str, ...] = ()
    init: dict[str, str] | None = None  # what it began with, see Weights.place
    stamp: Stamp | None = None  # of the run's folder, before any of it was read
    reached: Done | None = None  # how far the run got there, if it was killed

    @property
    def folder(self) -> Path | None:
        """The folder of the run, None of a checkpoint that lies in none."""
        return folder_of(self.path)

    def steps_lost(self, steps: int) -> int:
        """How many were done after the checkpoint, in epochs of as many as its own, or `steps`."""
        if self.reached is None:
            return 0
        epoch = step = 0
        if self.checkpoint is not None:
            header = self.checkpoint.header
            epoch, step, steps = header.epoch, header.step, header.steps or steps
        return max((self.reached.epochs - epoch) * steps + self.reached.steps - step, 0)

    def place(self) -> Path | None:
        """Where the dataset lay, if that is a folder of this host, too."""
        return self.data_dir if self.data_dir is not None and self.data_dir.is_dir() else None

    def without_rows(self) -> "Origin":
        """For the other ranks, which get theirs one by one."""
        if self.checkpoint is None:
            return self
        return replace(self, checkpoint=replace(self.checkpoint, rows={}))


def folder_of(path: Path) -> Path | None:
    """The folder of the run that is resumed by `path`, None of a checkpoint that lies in none."""
    if path.is_dir():
        return path
    return path.parent if RunFolder(path.parent).config.exists() else None


def find(path: Path) -> Origin:
    """A checkpoint and the values in it; or the run in a folder, and those of its last start.

    Of a folder it is the newest checkpoint that counts and is not damaged.
    Raises NpnetError if there is nothing to go on from.
    """
    folder = path if path.is_dir() else path.parent
    stamp = RunFolder(folder).stamp()
    return replace(_find(path), stamp=stamp, reached=reached_in(folder) if path.is_dir() else None)


def _find(path: Path) -> Origin:
    if not path.is_dir():
        return _of_checkpoint(path, load(path))
    folder = RunFolder(path)
    checkpoint, said = _newest(folder)
    if not folder.config.exists():
        if checkpoint is None:
            raise NpnetError(f"{path} holds no run: give the folder of one, or a checkpoint")
        return _of_checkpoint(path, checkpoint, said)
    before = _read(folder.config).get("resumed_from")
    if checkpoint is None and isinstance(before, str):
        checkpoint = _first(path, before)
    origin = replace(_of_config(path, folder.newest_config), checkpoint=checkpoint, said=said)
    if checkpoint is None:
        return origin
    header = checkpoint.header
    return replace(
        origin,
        model=header.model,
        dataset=header.dataset,
        world=header.world,
        source=header.source or Source(header.dataset),
    )


def _first(path: Path, before: str) -> Checkpoint:
    """That from which a run began that has not come to one of its own."""
    try:
        return load(before)
    except NpnetError as error:
        raise NpnetError(
            f"{path} has no checkpoint of its own yet and began from another run's: {error}; "
            f"`resume` that one, wherever it is now, with another `out`"
        ) from error


def _newest(folder: RunFolder) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest checkpoint that can be read, and what is wrong with those after it."""
    said: list[str] = []
    files = folder.valid_checkpoints()
    for file in files:
        try:
            return load(file), tuple(said)
        except NpnetError as error:
            if file == files[-1]:
                raise
            said.append(f"{error}; the one before it is taken")
    return None, ()


def _of_checkpoint(path: Path, checkpoint: Checkpoint, said: tuple[str, ...] = ()) -> Origin:
    header, folder = checkpoint.header, RunFolder(path if path.is_dir() else path.parent)
    config = _read(folder.newest_config) if folder.config.exists() else {}
    settings: Any = header.settings
    if settings is None:  # of an older npnet, which left them to config.json
        settings = config.get("settings")
    if settings is None:
        said += (f"{checkpoint.path} does not tell its batch and settings: the defaults are taken",)
        settings = {"batch_per_rank": BATCH_PER_RANK, "ranks_per_node": header.world}
    return Origin(
        path,
        header.dataset,
        _place(config),
        header.model,
        header.recipe,
        _settings({**settings, "epochs": header.epochs, "seed": header.seed}, str(checkpoint.path)),
        header.world,
        header.source or Source(header.dataset),
        checkpoint,
        said,
    )


def _of_config(path: Path, file: Path) -> Origin:
    config = _read(file)
    dataset, world, settings = (config.get(name) for name in ("dataset", "world", "settings"))
    about = dataset if isinstance(dataset, dict) else {}
    name = about.get("name")
    if not isinstance(name, str) or not isinstance(world, int) or not isinstance(settings, dict):
        raise NpnetError(f"{file} lacks dataset, world or settings: `resume` a checkpoint instead")
    return Origin(
        path,
        name,
        _place(config),
        ModelConfig.from_dict(config.get("model"), f"{file}: model"),
        Recipe.from_dict(config.get("recipe"), f"{file}: recipe"),
        _settings(settings, str(file)),
        world,
        Source.from_dict(about.get("source"), f"{file}: source") or Source(name),
        None,
        init=_init(config),
    )


def _settings(found: Mapping[str, Any], where: str) -> Settings:
    """Without what was a setting once."""
    kept = known_fields(Settings, found)
    return Settings(**checked_fields(Settings, kept, f"{where}: settings"))


def _init(config: Mapping[str, Any]) -> dict[str, str] | None:
    found = config.get("init")
    if not isinstance(found, dict) or set(found) != {"path", "digest"}:
        return None
    return {name: str(text) for name, text in found.items()}


def _place(config: Mapping[str, Any]) -> Path | None:
    dataset = config.get("dataset")
    place = dataset.get("location") if isinstance(dataset, dict) else None
    return Path(place) if isinstance(place, str) else None


def _read(path: Path) -> dict[str, Any]:
    return read_object(path, "mend it, or move it away")


def changes(origin: Origin, recipe: Recipe, settings: Settings, world: int) -> list[str]:
    """Each value that is not as it was, as `lr 0.1 -> 0.05`."""
    before = {**origin.recipe.as_dict(), **asdict(origin.settings), "world": origin.world}
    now = {**recipe.as_dict(), **asdict(settings), "world": world}
    return [
        f"{name} {_word(before[name])} -> {_word(now[name])}"
        for name in now
        if now[name] != before[name]
    ]


def _word(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    return str(value)
