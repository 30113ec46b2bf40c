"""`npnet train`."""

import os
import shlex
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from npnet.cli import options
from npnet.cli.help import CommandWithHeadings, heading
from npnet.cli.streams import say
from npnet.cli.words import SECONDS_TO_PASS_ON, several
from npnet.schema import known_fields

if TYPE_CHECKING:
    from npnet.data.dataset import Dataset
    from npnet.model.config import ModelConfig
    from npnet.model.weights import Weights
    from npnet.parallel.communicator import Communicator
    from npnet.training.recipe import Recipe
    from npnet.training.resume import Origin
    from npnet.training.run_folder import RunFolder
    from npnet.training.settings import Settings
    from npnet.training.trainer import Trainer

LAUNCH = "NPNET_LAUNCH"  # tells each rank of an `npnet launch` of its words
POSITIVE = click.IntRange(min=1)
SHARE = options.Finite(0, 1, max_open=True)
NOT_NEGATIVE = options.Finite(min=0)
ABOVE_ZERO = options.Finite(min=0, min_open=True)


@click.command(cls=CommandWithHeadings, context_settings={"show_default": True})
@heading("Most used")
@options.dataset_name
@options.data
@options.model_name
@click.option(
    "--recipe",
    "recipe_name",
    type=click.Choice(options.RECIPES),
    help="`modern` keeps learning at any number of ranks, `paper` is the paper's protocol, "
    "`finetune` goes on from --init.  [default: modern; finetune with --init]",
)
@click.option("--epochs", type=POSITIVE, default=10, help="Passes over the training images.")
@click.option(
    "--batch-per-rank", type=POSITIVE, help="Images a rank takes each step.  [default: 12]"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run folder.  [default: runs/<name>, or that of the run that goes on]",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Go on with the run in this folder, or from this checkpoint, as it was started.",
)
@options.config_file
@heading("Data")
@options.data_dir
@options.taken
@options.augmentation
@click.option(
    "--shuffle",
    type=click.Choice(["shard", "global"]),
    help="Within each rank's shard, or new shards each epoch.  [default: recipe's]",
)
@heading("Model")
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    help="Begin with the weights in this file, of npnet, torchvision, timm, Keras or ONNX.",
)
@options.model_sizes
@click.option(
    "--padding",
    type=click.Choice(options.PADDINGS),
    help="At stride 2: on all sides, or as TensorFlow and Keras pad.  [default: symmetric]",
)
@click.option(
    "--crop-fraction",
    type=options.Finite(0.01, 1),
    help="Test on the centre, so much of an image across; torchvision's is 0.875.  [default: 1]",
)
@click.option("--dropout", type=SHARE, help="Rate before the classifier.  [default: model's]")
@click.option(
    "--zero-gamma/--no-zero-gamma",
    default=None,
    help="Blocks with a shortcut start as the identity.  [default: recipe's]",
)
@click.option(
    "--independent-init/--no-independent-init",
    default=None,
    help="Each rank draws its own initial weights, until the first average.  [default: recipe's]",
)
@click.option(
    "--freeze",
    multiple=True,
    help="Operations that are not trained, such as stem or 'block1.*'; may be repeated.",
)
@options.train
@click.option(
    "--cache-features/--no-cache-features",
    default=True,
    help="With --train head, compute once what the classifier reads, and keep it on disk.",
)
@heading("Optimiser")
@click.option("--lr", type=NOT_NEGATIVE, help="Peak learning rate.  [default: recipe's]")
@click.option(
    "--layer-decay",
    type=options.Finite(0.01, 1),
    help="Of the rate, from each unit to the one before it, such as 0.8.  [default: recipe's]",
)
@click.option(
    "--warmup-epochs", type=NOT_NEGATIVE, help="Epochs of linear warm-up.  [default: recipe's]"
)
@click.option("--momentum", type=SHARE, help="SGD momentum.  [default: recipe's]")
@click.option(
    "--nesterov/--no-nesterov", default=None, help="Nesterov momentum.  [default: recipe's]"
)
@click.option("--weight-decay", type=NOT_NEGATIVE, help="L2 on weights.  [default: recipe's]")
@click.option(
    "--label-smoothing", type=SHARE, help="Share of the target spread out.  [default: recipe's]"
)
@click.option(
    "--classifier-gradient",
    type=NOT_NEGATIVE,
    help="Factor of the classifier's gradient.  [default: recipe's]",
)
@heading("Batch norm")
@click.option(
    "--bn-momentum", type=SHARE, help="What a batch norm keeps each step.  [default: recipe's]"
)
@click.option(
    "--bn-epsilon", type=ABOVE_ZERO, help="Added to batch norm's variance.  [default: recipe's]"
)
@options.bn_eval
@click.option(
    "--sync-bn", is_flag=True, help="Batch statistics of all ranks together, at each step."
)
@click.option("--freeze-bn", is_flag=True, help="Train with running statistics as they are.")
@heading("Ranks and workers")
@click.option(
    "--batch-per-node",
    type=POSITIVE,
    help="Instead of --batch-per-rank: images that the ranks of a node share.",
)
@click.option(
    "--ranks-per-node", type=POSITIVE, help="Ranks on each node.  [default: as the launcher placed]"
)
@click.option(
    "--workers-per-rank",
    type=POSITIVE,
    default=1,
    help="Replicas that each rank trains in turn: 2 ranks x 24 learn what 48 ranks would.",
)
@click.option(
    "--sync", type=click.Choice(options.STRATEGIES), help="What ranks average.  [default: recipe's]"
)
@click.option(
    "--sync-steps",
    type=POSITIVE,
    help="Of `weights`: steps between two averages.  [default: an epoch's]",
)
@click.option(
    "--overlap/--no-overlap",
    default=None,
    help="Of `gradients`: exchange them during backward.  [default: between hosts]",
)
@click.option(
    "--wire",
    type=click.Choice(options.WIRES),
    default="float32",
    help="Of `gradients`: what they are rounded to between hosts; bfloat16 halves the traffic.",
)
@click.option(
    "--deterministic",
    is_flag=True,
    help="Add up in the order of workers: the same to the bit, however ranks share them.",
)
@options.threads
@heading("The run")
@click.option(
    "--checkpoint-every",
    type=POSITIVE,
    metavar="STEPS",
    help="Save an epoch under way, too, after each so many of its steps.",
)
@click.option(
    "--keep",
    type=POSITIVE,
    metavar="EPOCHS",
    help="Keep checkpoints of the newest ... epochs and of the best.  [default: of all]",
)
@click.option(
    "--patience",
    type=POSITIVE,
    metavar="EPOCHS",
    help="End after so many epochs without a better accuracy; best.npz is the best one's.",
)
@click.option("--max-steps", type=POSITIVE, help="Stop each epoch after this many steps.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=42,
    help="Of initial weights, order and augmentation.",
)
@click.option(
    "--evaluate",
    type=click.Choice(options.EVALUATIONS),
    help="When to test.  [default: each-epoch; at-end with --recipe paper]",
)
@click.option("--eval-each-epoch", "evaluate", flag_value="each-epoch", hidden=True)
@click.option("--eval-at-end", "evaluate", flag_value="at-end", hidden=True)
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    help="File for the time line of all ranks, which ui.perfetto.dev draws.",
)
@click.option(
    "--stall-limit",
    type=NOT_NEGATIVE,
    metavar="SECONDS",
    default=600,
    help="End a job in which no rank moves for so long, such as for a dead link; 0: never.",
)
@options.backend
@click.option("--progress/--no-progress", default=True, help="Progress bar, or lines every 30 s.")
def train(
    out: Path | None,
    resume: Path | None,
    init: Path | None,
    trace: Path | None,
    threads: int,
    progress: bool,
    stall_limit: float,
    **values: Any,
) -> None:
    """Train a model; under mpiexec, on all ranks together.

    Leaves a run folder with config.json, log.csv, summary.json and checkpoints.
    """
    from npnet.cli import datasets
    from npnet.cli.console import Console
    from npnet.data.source import source_of
    from npnet.errors import NpnetError, Stopped
    from npnet.parallel import joining
    from npnet.parallel.communicator import connect, together
    from npnet.parallel.watchdog import Watchdog
    from npnet.training.resume import find
    from npnet.training.trace import Trace
    from npnet.training.trainer import Trainer, with_features
    from npnet.training.warmup import Rehearsal, prepare

    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # there is nothing to save yet
    comm = connect("npnet train", limit=min(stall_limit, joining.LIMIT))
    watch = Watchdog(comm, stall_limit, say_who_is_awaited, say_last_words)
    click.get_current_context().call_on_close(watch.close)
    with together(comm):
        # Rank 0 alone reads and writes the run: no other node needs its files.
        origin = find(resume) if resume is not None and comm.rank == 0 else None
        weights = initial_weights(init, origin) if comm.rank == 0 else None
    mine, origin = origin, comm.broadcast(origin.without_rows() if origin is not None else None)
    weights = comm.broadcast(weights)
    if origin is None:
        plan = plan_of_options(values, comm, weights, progress)
    else:
        plan = plan_of_origin(origin, comm, values["data_dir"], progress)
    recipe, settings, source, model = plan
    world = comm.size * settings.workers_per_rank
    with together(comm):
        folder = choose_folder(out, mine, default_folder(source.name, recipe.name, world))
        if origin is None:
            datasets.check_outside(folder.path, source_of(source))
    console = Console(comm, threads, progress)
    timeline = Trace(trace, comm) if trace is not None else None
    checkpoint = (mine or origin).checkpoint if origin is not None else None
    folder.path = comm.broadcast(folder.path)
    watch.advice = lambda: f"go on with {command_to_go_on(comm.size, folder.path)}"

    def compile_kernels() -> None:
        if settings.backend == "numba":
            prepare(comm, Rehearsal.of(model, recipe, settings.dtype), console.compiling)

    below = weights or (checkpoint.weights() if checkpoint is not None else None)
    showing = (compile_kernels, console.computing)
    source = with_features(source, model, recipe, settings, below, comm, *showing)
    start = (folder, checkpoint, weights)
    trainer = Trainer(source, model, recipe, settings, comm, console, *start)
    if timeline is not None:
        timeline.start()  # now that the run was not refused
    compile_kernels()
    if origin is not None:
        console.said = [*origin.said, *how_it_goes_on(origin, trainer)]
    elif weights is not None:
        console.said = how_it_begins(weights, trainer)
    trainer.trace = timeline
    try:
        with trainer.pauses.for_signals():
            trainer.run()
    except NpnetError:  # which says what to do
        raise
    except SystemExit as leaving:
        raise RuntimeError("it left in the middle of the run") from leaving
    except Stopped as stopped:
        raise Stopped(f"{stopped}: go on with {command_to_go_on(comm.size, folder.path)}") from None
    except (Exception, KeyboardInterrupt) as error:
        if resume is not None or console.epochs_kept > trainer.first_epoch:
            error.add_note(
                f"npnet: {console.epochs_kept} of {settings.epochs} epochs are kept: go on with "
                f"{command_to_go_on(comm.size, folder.path)}"
            )
        raise


def initial_weights(init: Path | None, origin: "Origin | None" = None) -> "Weights | None":
    """Those that a run begins with, also one that begins once more."""
    from npnet.errors import NpnetError
    from npnet.exchange import read_weights

    if origin is not None and init is not None:
        raise NpnetError("`init` is for a run that begins: leave it out, or `resume`")
    if origin is None:
        if init is None:
            return None
        return replace(read_weights(init, headless=True), path=init.absolute())
    if origin.init is None or origin.checkpoint is not None:
        return None
    path = Path(origin.init["path"])
    weights = replace(read_weights(path, headless=True), path=path)
    if weights.place() != origin.init:
        raise NpnetError(
            f"{path} holds other weights than {origin.path} began with: put those there, or begin "
            "a new run"
        )
    return weights


def choose_model(
    values: dict[str, Any],
    classes: int,
    recipe: str,
    stored_size: int | None,
    weights: "Weights | None",
) -> "ModelConfig":
    """The model that the options name; that of the weights, at the sizes that were asked for.

    Raises NpnetError where what is given is not what the weights are of.
    """
    from npnet.errors import NpnetError

    if weights is None:
        return options.model_config(values, classes, recipe, stored_size)
    given = given_options()
    fixed = {"model_name": "architecture", **{name: name for name in FIXED_BY_WEIGHTS}}
    for option_name, name in fixed.items():
        value, own = given.get(option_name), getattr(weights.config, name)
        if value is not None and value != own:
            told = option(option_name.removesuffix("_name"), value)
            raise NpnetError(f"{told} does not fit {weights.source}, of {name} {own}: leave it out")
    here: dict[str, Any] = {"classes": classes}
    if stored_size is not None:
        here["stored_size"] = stored_size
    free = {name: given[name] for name in FREE_FIELDS if given.get(name) is not None}
    return replace(weights.config, **here, **free)


FIXED_BY_WEIGHTS = ("width", "batch_norm", "padding", "bn_epsilon")
FREE_FIELDS = ("input_size", "dropout", "crop_fraction")


def how_it_begins(weights: "Weights", trainer: "Trainer") -> list[str]:
    """Lines: from which weights, and what is new."""
    from npnet.training.features import Features

    classes, lines = trainer.dataset.classes, [f"Weights: {weights.source}"]
    if not weights.knows(classes):
        old = "none" if weights.headless else f"one for {weights.config.classes}"
        lines.append(f"A new classifier for {len(classes)} classes, where there was {old}")
    if isinstance(trainer.dataset, Features):
        lines.append(
            "The classifier is trained on features that were computed once, without flips or crops"
        )
    return lines


class Plan(NamedTuple):
    """What a run trains, and how."""

    recipe: "Recipe"
    settings: "Settings"
    source: "Dataset"
    model: "ModelConfig"


def plan_of_options(
    values: dict[str, Any], comm: "Communicator", weights: "Weights | None", progress: bool = True
) -> Plan:
    """That of a run that begins. All ranks must call."""
    from npnet.cli import datasets
    from npnet.parallel.communicator import together

    with together(comm):
        recipe = choose_recipe(values, weights)
        settings = choose_settings(recipe, comm, values)
        model = choose_model(values, 2, recipe.name, None, weights)
        data = datasets.chosen(values, model.input_size)
    source = datasets.opened(data, values["data_dir"], comm, progress)
    with together(comm):
        classes, stored = len(source.classes), source.image_size
        model = choose_model(values, classes, recipe.name, stored, weights)
    return Plan(recipe, settings, source, model)


def plan_of_origin(
    origin: "Origin", comm: "Communicator", data_dir: Path | None, progress: bool
) -> Plan:
    """That of a run that goes on: as it was, but for the options that are given."""
    from npnet.cli import datasets
    from npnet.parallel.communicator import together

    given = given_options()
    with together(comm):
        refuse_another(origin, given)
        recipe = replace(origin.recipe, **of_record(origin.recipe, given))
        settings = changed_settings(origin, comm, given)
    data = datasets.changed(origin.source, given)
    source = datasets.opened(data, data_dir or origin.place(), comm, progress)
    return Plan(recipe, settings, source, origin.model)


def say_who_is_awaited(words: str) -> None:
    say(f"[WAIT] {words}")


def say_last_words(words: str) -> None:
    """The line with which a stalled job ends, and the time that mpiexec takes to pass it on."""
    say(f"npnet: error: {words}", err=True)
    time.sleep(SECONDS_TO_PASS_ON)


def given_options() -> dict[str, Any]:
    """The options that were given, on the command line or in a file, by their parameters' names."""
    context = click.get_current_context()
    return {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) in options.GIVEN
    }


def of_record(record: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values that are fields of a dataclass, but for those that are None."""
    known = known_fields(type(record), values)
    return {name: value for name, value in known.items() if value is not None}


def choose_folder(out: Path | None, origin: "Origin | None", default: Path) -> "RunFolder":
    """Where the run is written: where `origin` lies unless `out` is elsewhere.

    Raises NpnetError where later epochs would be forgotten that nobody spoke of.
    """
    from npnet.errors import NpnetError
    from npnet.training.run_folder import RunFolder

    there = origin.folder if origin is not None else None
    if origin is None or there is None:
        return RunFolder(out or default, proposed=out is None)
    if out is not None and out.resolve() != there.resolve():
        return RunFolder(out)
    folder = RunFolder(out or there, continued=True)
    folder.expected = origin.stamp
    later = folder.later_than(origin.checkpoint) if origin.path.is_file() else []
    if out is None and later:
        raise NpnetError(
            f"{origin.path} is not the last of its run, there is {later[0].name}: give `out` "
            f"{folder.path} to forget what came after it, or another `out` to leave that as it is"
        )
    return folder


def how_it_goes_on(origin: "Origin", trainer: "Trainer") -> list[str]:
    """Lines: from where, what the command line changes, and what cannot go on as it was."""
    from npnet.training.resume import changes

    run, epochs = trainer.run_files, trainer.settings.epochs
    if run.checkpoint is None:
        lines = [f"{origin.path} has no checkpoint yet: it begins once more"]
    elif run.first_epoch == epochs or run.best.stops(run.first_epoch, trainer.settings.patience):
        done = "all" if run.first_epoch == epochs else f"{run.first_epoch} of"
        lines = [
            f"Goes on from {run.resumed_from}: {done} {epochs} epochs are done, its end is left"
        ]
    else:
        step = f", step {run.first_step + 1} of {trainer.steps}" if run.first_step else ""
        at = f"epoch {run.first_epoch + 1} of {epochs}{step}"
        lines = [f"Goes on from {run.resumed_from} with {at}"]
    if lost := origin.steps_lost(trainer.steps):
        lines.append(f"Lost: {several(lost, 'step')} done after that")
    changed = changes(origin, trainer.recipe, trainer.settings, trainer.world)
    return [*lines, *([f"Changed: {', '.join(changed)}"] if changed else []), *run.said]


def command_to_go_on(ranks: int, folder: Path) -> str:
    """The command line that continues a run."""
    npnet = f"mpiexec -n {ranks} npnet" if ranks > 1 else "npnet"
    return f"{os.environ.get(LAUNCH, npnet)} train --resume {shlex.quote(str(folder))}"


def usual_recipe(init: object) -> str:
    """The recipe's name where none is given; `init`: what the run begins with, or None."""
    return "modern" if init is None else "finetune"


def choose_recipe(values: dict[str, Any], weights: "Weights | None") -> "Recipe":
    """The recipe that is named, or the usual one, with the values that were given."""
    from npnet.errors import NpnetError
    from npnet.training.recipe import RECIPES

    recipe = RECIPES[values["recipe_name"] or usual_recipe(weights)]
    recipe = replace(recipe, **of_record(recipe, values))
    if recipe.train != "all" and weights is None:
        raise NpnetError(
            f"`train` {recipe.train} is for weights that are trained already: give them by `init`"
        )
    return recipe


def choose_settings(recipe: "Recipe", comm: "Communicator", values: dict[str, Any]) -> "Settings":
    """Epochs, batch and the rest. Raises NpnetError where ranks and batch do not fit."""
    from npnet.training.settings import Settings

    ranks_per_node = fitting_ranks_per_node(
        values["ranks_per_node"], values["workers_per_rank"], comm
    )
    return Settings(
        epochs=values["epochs"],
        batch_per_rank=fitting_batch(
            values["batch_per_rank"], values["batch_per_node"], ranks_per_node
        ),
        seed=values["seed"],
        workers_per_rank=values["workers_per_rank"],
        deterministic=values["deterministic"],
        sync_bn=values["sync_bn"],
        overlap=values["overlap"],
        wire=values["wire"],
        bn_eval=values["bn_eval"],
        ranks_per_node=ranks_per_node,
        backend=values["backend"],
        freeze_bn=values["freeze_bn"],
        max_steps=values["max_steps"],
        checkpoint_every=values["checkpoint_every"],
        keep=values["keep"],
        cache_features=values["cache_features"],
        patience=values["patience"],
        evaluate=values["evaluate"] or ("at-end" if recipe.name == "paper" else "each-epoch"),
    )


def changed_settings(origin: "Origin", comm: "Communicator", given: dict[str, Any]) -> "Settings":
    """Those of the run that goes on, but for what is given, or has to change with the ranks."""
    before = origin.settings
    workers = given.get("workers_per_rank", before.workers_per_rank)
    as_before = before.ranks_per_node if comm.size * workers == origin.world else None
    ranks_per_node = fitting_ranks_per_node(given.get("ranks_per_node", as_before), workers, comm)
    batch = before.batch_per_rank
    if "batch_per_rank" in given or "batch_per_node" in given:
        batch = fitting_batch(
            given.get("batch_per_rank"), given.get("batch_per_node"), ranks_per_node
        )
    here = {"ranks_per_node": ranks_per_node, "batch_per_rank": batch}
    return replace(before, **of_record(before, given) | here)


def fitting_ranks_per_node(given: int | None, workers_per_rank: int, comm: "Communicator") -> int:
    """The ranks that share a node, checked against the world's size; workers count as ranks."""
    from npnet.errors import NpnetError

    if given is None:
        return max(comm.nodes.count(node) for node in comm.nodes) * workers_per_rank
    world = comm.size * workers_per_rank
    if world % given:
        raise NpnetError(
            f"{world} ranks do not fill nodes of {given}: start a multiple of "
            f"--ranks-per-node {given}, or leave that option out"
        )
    return given


def fitting_batch(per_rank: int | None, per_node: int | None, ranks_per_node: int) -> int:
    """The batch of one rank, from whichever of the two options was given."""
    from npnet.errors import NpnetError
    from npnet.training.recipe import BATCH_PER_RANK

    if per_node is None:
        return per_rank or BATCH_PER_RANK
    if per_rank is not None and per_rank * ranks_per_node != per_node:
        raise NpnetError(
            f"--batch-per-rank {per_rank} on {ranks_per_node} ranks a node is not "
            f"--batch-per-node {per_node}: give one of the two"
        )
    if per_node % ranks_per_node:
        raise NpnetError(
            f"--batch-per-node {per_node} cannot be shared by {ranks_per_node} ranks a node: "
            f"give a multiple of {ranks_per_node}"
        )
    return per_node // ranks_per_node


def refuse_another(origin: "Origin", given: dict[str, Any]) -> None:
    """Raise NpnetError if what is given is another kind of run.

    What may well change on the way, such as a learning rate that was too high, is not compared.
    """
    from npnet.errors import NpnetError
    from npnet.model.zoo import configure

    model = origin.model
    saved = {"dataset": origin.dataset, "recipe": origin.recipe.name, "model": model.architecture}
    saved |= {name: getattr(model, name) for name in options.MODEL_FIELDS}
    saved |= {name: getattr(origin.source, name) for name in ("val_split", "stored_size")}
    labels = {"recipe_name": "recipe", "model_name": "model"}
    now = {labels.get(name, name): value for name, value in given.items()}
    if any(value != now.get(name, value) for name, value in saved.items()):
        usual = configure(model.architecture, model.classes).as_dict()
        usual |= {"val_split": None, "stored_size": origin.source.stored_size}
        told = [
            name
            for name, value in saved.items()
            if name in ALWAYS_TOLD or value != usual[name] or value != now.get(name, value)
        ]
        words = " ".join(option(name, saved[name]) for name in told)
        raise NpnetError(
            f"{origin.path} was trained with {words}: give the same to continue it, or nothing"
        )


ALWAYS_TOLD = ("dataset", "recipe", "model", "width", "input_size")


def option(name: str, value: object) -> str:
    """A field and its value as they stand on the command line."""
    from npnet.cli.console import plain

    if isinstance(value, bool):
        return f"`{name}`" if value else f"`no_{name}`"
    return f"`{name}` {plain(value)}"


def default_folder(dataset: str, recipe: str, world: int) -> Path:
    """runs/<dataset>-<recipe>-np<ranks>-<date>-<time>; only rank 0's clock counts.

    Of runs that start in one second, all but one get a number behind it (RunFolder).
    """
    from datetime import datetime

    time = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{dataset}-{recipe}-np{world}-{time}"
