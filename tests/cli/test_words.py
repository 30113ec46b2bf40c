"""Words of other frameworks are answered by ours."""

import re
from collections.abc import Iterator

import click
import pytest

from npnet.cli import words
from npnet.cli.main import cli
from tests.launch import npnet_run


def commands(group: click.Group = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command by its path, groups too."""
    for name, command in group.commands.items():
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


def options_of(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts}


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["train", "--pretrained"], "'--pretrained': there are no weights to download; --init"),
        (["train", "--lr-schedule", "cosine"], "'--lr-schedule': the schedule is a part of --reci"),
        (["train", "--workers", 4], "'--workers': each rank prepares its own images: start more"),
        (["train", "--gpu", 0], "'--gpu': npnet computes on processors"),
        (["train", "--device=cuda"], "'--device': npnet computes on processors"),
        (["train", "--batch-size", 8], "'--batch-size': it is --batch-per-rank here"),
        (["train", "--batch", 8], "'--batch': it is --batch-per-rank here"),
        (["bench", "step", "--batch-size", 8], "'--batch-size': it is --batch here"),
        (["train", "--learning-rate", 1], "'--learning-rate': it is --lr here"),
        (["predict", "--learning-rate", 1], "it is --lr, an option of npnet train"),
        (["train", "--num-epochs", 1], "'--num-epochs': it is --epochs here"),
        (["train", "--optimizer", "adam"], "'--optimizer': it is SGD here, with --momentum"),
        (
            ["train", "--weights", "x"],
            "'--weights': npnet train begins with weights by --init",
        ),
        (["train", "--data-path", "x"], "'--data-path': it is --data here"),
        (["fit"], "No such command 'fit': it is npnet train here"),
        (["train", "--epocs", 3], "--epochs"),  # misspelt: click's own
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_a_word_of_elsewhere(tmp_path, arguments: list[str], answer: str) -> None:
    error = npnet_run(*arguments, cwd=tmp_path).error
    if arguments == ["fit"] and not hasattr(click.exceptions, "NoSuchCommand"):
        pytest.skip("this click does not say which command was asked for")
    assert answer in error


def test_the_answers_exist() -> None:
    """And the words are no options of ours: such an answer would never be given."""
    train, every = options_of(cli.commands["train"]), dict(commands())
    anywhere = {name for command in every.values() for name in options_of(command)}
    for theirs, ours in words.OPTIONS.items():
        assert ours[0] in train
        assert set(ours) <= anywhere
        assert not train & set(theirs.split())
    for theirs, remark in words.REMARKS.items():
        assert set(re.findall(r"--[a-z-]+", remark)) <= train
        assert not train & set(theirs.split())
    for theirs, path in words.COMMANDS.items():
        assert path in every
        assert not cli.commands.keys() & set(theirs.split())


def test_no_word_has_two_answers() -> None:
    theirs = [word for key in (*words.OPTIONS, *words.REMARKS) for word in key.split()]
    assert len(theirs) == len(set(theirs))
