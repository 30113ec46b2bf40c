"""The documentation: its links lead somewhere, its commands exist, its Python runs as it stands."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from npnet.cli.main import cli
from tests.launch import SOURCES, clean_environment, launcher
from tests.test_api import example

DOCS = SOURCES / "docs"
PAGES = [
    *(SOURCES / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    SOURCES / "machinefiles/README.md",
    *sorted(DOCS.glob("*.md")),
]
PYTHON_PAGES = [DOCS / "reading.md", DOCS / "library.md"]
WRITER = runpy.run_path(str(DOCS / "commands.py"))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.M)
CODE = re.compile(r"`([^`\n]+)`")
SCRIPT = re.compile(r"# (\w+\.py)\n")  # begins a block that is a file of its own

TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LAUNCHERS = {"mpiexec", "nohup", "salloc"}
# Options of rsync, Open MPI and Slurm.
OF_OTHERS = {"--exclude", "--hostfile", "--report-bindings", "--mpi=list", "--now"} | {
    "--no-emulation"
}


def name(page):
    return str(page.relative_to(SOURCES))


def blocks(text, language):
    """(line number of its first line, contents) of each fenced block in a language."""
    for found in FENCE.finditer(text):
        if found[1] == language:
            yield text.count("\n", 0, found.start(2)) + 1, found[2]


def prose(text):
    return FENCE.sub("", text)


# Links


def anchors(target, page, text):
    """Those that GitHub gives to the headings of `target`, which is `page` itself or another."""
    found = set()
    for heading in HEADING.findall(prose(text if target == page else target.read_text())):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


def broken_links(page, text):
    """Relative links of a page that lead to no file, or to no heading."""
    for link in LINK.findall(prose(text)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target, page, text)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    assert list(broken_links(page, page.read_text())) == []


def test_a_broken_link_is_seen():
    text = "# One, two\n\n[a](#one-two) [b](#three) [c](cluster.md#flash) [d](cluster.md#burn)\n"
    text += "[e](nothing.md) ![f](../bench/records/shapes.png) [g](https://example.org/nothing)\n"
    assert list(broken_links(DOCS / "README.md", text)) == [
        "#three",
        "cluster.md#burn",
        "nothing.md",
    ]


# Commands


def command_lines(text):
    """(line number, arguments) of each `npnet ...` in a page's shell blocks."""
    for first, block in blocks(text, "sh"):
        for match in re.finditer(r"(?:.*\\\n)*.*\n", block):
            line = match[0].replace("\\\n", " ")
            number = first + block.count("\n", 0, match.start())
            for words in commands(line):
                programs = [Path(word).name for word in words]
                if "npnet" in programs and programs[0] in {"npnet", *LAUNCHERS}:
                    arguments = words[programs.index("npnet") + 1 :]
                    yield number, arguments
                    if arguments[:1] == ["launch"]:
                        yield number, arguments[arguments.index("--") + 1 :]


def commands(line):
    """The words of each command of a line, without redirections and comments."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    command = []
    for word in words:
        if set(word) <= set("&|;()<>"):
            yield command
            command = []
        else:
            command.append(word)
    yield command


COMMAND_LINES = [
    pytest.param(arguments, id=f"{name(page)}:{number}")
    for page in PAGES
    for number, arguments in command_lines(page.read_text())
]


def parse(arguments, monkeypatch):
    """Do all that `npnet ARGUMENTS` does before the command itself begins."""
    monkeypatch.setattr(click.Command, "invoke", lambda self, context: None)
    monkeypatch.setattr("npnet.cli.options.limit_threads", lambda threads=None: 1)
    cli.main(arguments, prog_name="npnet", standalone_mode=False)


def test_command_lines_are_found():
    block = "true; mpiexec -n 2 npnet train \\\n  --epochs 1  # some\n.venv/bin/npnet info > y &\n"
    block += "npnet launch -n 2 -- data\n"
    found = list(command_lines(f"```sh\n{block}```\n"))
    assert found == [
        *((2, ["train", "--epochs", "1"]), (4, ["info"])),
        *((5, ["launch", "-n", "2", "--", "data"]), (5, ["data"])),
    ]
    assert len(COMMAND_LINES) > 30


@pytest.mark.parametrize("arguments", COMMAND_LINES)
def test_command_lines_are_right(arguments, monkeypatch):
    parse(arguments, monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "tran",
        "train --no-such-option",
        "train --model resnet50",
        "train --batch-per-rank 0",
        "evaluate",
        "study shrink",
        "bench kernels now",
    ],
)
def test_a_wrong_command_line_is_seen(line, monkeypatch):
    with pytest.raises(click.UsageError):
        parse(line.split(), monkeypatch)


def unknown_options(text):
    """Those that a text names in `code`, and no command has."""
    known = {
        option
        for context in WRITER["contexts"]("npnet", cli)
        for parameter in context.command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    words = {word for code in CODE.findall(prose(text)) for word in code.split()}
    named = {word.rstrip(",") for word in words if re.match(r"--\w", word)}
    return named - known - OF_OTHERS - {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_in_the_text_exist(page):
    assert unknown_options(page.read_text()) == set()


def test_an_unknown_option_in_the_text_is_seen():
    assert unknown_options("`--epochs 3`, `npnet train --wdith 1`") == {"--wdith"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_shell_blocks_are_shell(page):
    for number, block in blocks(page.read_text(), "sh"):
        done = subprocess.run(["sh", "-n"], input=block, capture_output=True, text=True)
        assert done.returncode == 0, f"{name(page)}:{number}: {done.stderr}"


def test_the_reference_of_commands_is_what_they_say():
    written = (DOCS / "commands.md").read_text()
    assert written == WRITER["reference"](), "run `python docs/commands.py`, which writes that page"


# Python


def as_script(text):
    """The Python blocks of a page, each in the line where it stands; files of their own left out.

    So that an error names the page and its line.
    """
    lines = [""] * text.count("\n")
    for first, block in blocks(text, "python"):
        if not SCRIPT.match(block):
            content = block.splitlines()
            lines[first - 1 : first - 1 + len(content)] = content
    return "\n".join(lines)


def run(code, folder, page):
    """Run Python code as that of a page, in a process of its own."""
    start = "import sys; exec(compile(sys.stdin.read(), sys.argv[1], 'exec'), {})"
    environment = clean_environment() | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", start, str(page)],
        input=code,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=name)
def test_python_blocks_run_as_written(page, tmp_path):
    done = run(as_script(page.read_text()), tmp_path, page)
    assert done.returncode == 0, done.stderr


def test_no_page_but_these_has_python():
    pages = {page for page in PAGES if list(blocks(page.read_text(), "python"))}
    assert pages == {SOURCES / "README.md", *PYTHON_PAGES}


def test_an_error_in_a_block_is_seen_with_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("One\n\n```python\na = 1\n```\n\nTwo\n\n```python\nassert a == 2\n```\n")
    done = run(as_script(page.read_text()), tmp_path, page)
    assert done.returncode == 1
    assert 'page.md", line 10' in done.stderr


def test_the_readme_shows_the_example_of_the_package():
    """Which tests/test_api.py runs."""
    ((_, block),) = blocks((SOURCES / "README.md").read_text(), "python")
    shown, whole = block.split(), example().split()
    assert shown == whole[: len(shown)]


@pytest.mark.mpi
def test_the_script_for_mpi_runs_as_written(tmp_path):
    text = (DOCS / "library.md").read_text()
    ((file, block),) = [
        (SCRIPT.match(block)[1], block)
        for _, block in blocks(text, "python")
        if SCRIPT.match(block)
    ]
    (tmp_path / file).write_text(block)
    (line,) = [line for _, line in blocks(text, "sh") if file in line]
    mpiexec, *options, python, m, mpi4py, script = shlex.split(line)
    assert (mpiexec, python) == ("mpiexec", "python")
    done = subprocess.run(
        [*launcher(), *options, sys.executable, m, mpi4py, script],
        cwd=tmp_path,
        env=clean_environment() | {"PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 ranks, test accuracy 0.")
    assert (tmp_path / "runs/ranks/final.npz").exists()


def test_each_promise_has_its_test():
    """The table of faults in docs/trust.md names tests that there are."""
    text = (DOCS / "trust.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    named = TEST.findall(text)
    assert len(named) == len(rows) > 20
    for file, test in named:
        assert f"def {test}(" in (SOURCES / file).read_text(), f"{file} has no {test}"
