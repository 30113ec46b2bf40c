"""The rules of the house: who may import whom, and what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = {"numpy", "numba", "llvmlite", "mpi4py", "psutil", "click"}  # llvmlite is a part of numba
STANDARD = set(sys.stdlib_module_names)


def sources(room):
    """Every source file of a room, the links in npnet/ not followed."""
    return [path for path in sorted((ROOT / room).rglob("*.py")) if not below_link(path)]


def below_link(path):
    return any(parent.is_symlink() for parent in path.parents if parent != ROOT)


def imports(path):
    """The modules that a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(package, *rooms):
    """Files of the rooms that import `package`."""
    return {
        str(path.relative_to(ROOT))
        for room in rooms
        for path in sources(room)
        if any(name == package or name.startswith(f"{package}.") for name in imports(path))
    }


EVERYWHERE = ("kernels", "npnet", "cli")


def test_the_rooms_are_found():
    assert len(sources("kernels")) > 15
    assert len(sources("npnet")) > 20
    assert len(sources("cli")) > 5
    assert (ROOT / "npnet/kernels").is_symlink()
    assert (ROOT / "npnet/cli").is_symlink()


def test_imports_run_one_way():
    for path in sources("kernels"):
        own = {name for name in imports(path) if name.startswith("npnet")}
        assert all(name.startswith("npnet.kernels") for name in own), path
    assert importers("npnet.cli", "npnet", "kernels") == {"npnet/__main__.py"}


# From the ground up, as ARCHITECTURE.md draws them: a room knows those before it, not those behind.
ROOMS = (
    {"kernels"},
    {"errors", "status", "files", "locks", "schema", "untrusted", "archive", "machine"},
    {"data"},
    {"model"},
    {"parallel"},
    {"training"},
    {"exchange"},
    {"measure"},
    {"study"},
    {"api", "__init__"},  # npnet/__init__.py hands out api and the rooms below by name
    {"cli"},
    {"__main__"},
)
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in sorted(rooms)}


def room_of(path):
    """The room of a source file: its folder in npnet/, or its own name."""
    first, *rest = path.relative_to(ROOT).with_suffix("").parts
    return rest[0] if first == "npnet" else first


def rooms_above(room, modules):
    """Those of the imported modules that lie in rooms behind `room`, or in none.

    `import npnet` alone loads no room: it gives the version and the place of the package.
    """
    own = [name.split(".") for name in modules if name.startswith("npnet.")]
    return {
        ".".join(parts)
        for parts in own
        if parts[1] not in LEVELS or LEVELS[parts[1]] > LEVELS[room]
    }


@pytest.mark.parametrize("room", LEVELS)
def test_a_room_knows_those_before_it(room):
    """Imports for type checkers count, too: a reader has to follow them."""
    paths = [path for each in EVERYWHERE for path in sources(each) if room_of(path) == room]
    assert paths
    for path in paths:
        assert rooms_above(room, imports(path)) == set(), path


def test_the_order_of_rooms_is_held():
    assert rooms_above("model", {"npnet.training.recipe"}) == {"npnet.training.recipe"}
    assert rooms_above("data", {"npnet.train"}) == {"npnet.train"}
    assert rooms_above("training", {"npnet", "npnet.training.run", "npnet.data"}) == set()
    assert {room_of(path) for room in EVERYWHERE for path in sources(room)} == set(LEVELS)


def names_a_model(path):
    return "squeezenet" in path.read_text(encoding="utf-8").lower()


def test_the_engine_names_no_model_but_in_the_zoo():
    """What is true of one model alone stands in its file; the engine knows operations.

    What other programs call its operations is not the engine's.
    """
    zoo = ROOT / "npnet/model/zoo"
    naming = {
        path for room in ("npnet", "kernels") for path in sources(room) if names_a_model(path)
    }
    assert naming == {zoo / "squeezenet.py", ROOT / "npnet/exchange/names.py"}


@pytest.mark.parametrize(
    ("package", "users"),
    [
        ("mpi4py", {"npnet/parallel/communicator.py"}),
        ("matplotlib", {"npnet/study/plots.py", "npnet/study/figures.py"}),
        ("PIL", {"npnet/data/pictures.py"}),
        ("h5py", {"npnet/exchange/keras.py"}),
        (
            "onnx",
            {
                f"npnet/exchange/onnx{part}.py"
                for part in ("", "_file", "_graph", "_nodes", "_walk")
            },
        ),
        ("safetensors", set()),
        ("pickle", set()),
    ],
)
def test_imported_in_one_place(package, users):
    assert importers(package, *EVERYWHERE) == users


def test_click_is_the_command_line_s_alone():
    assert importers("click", "npnet", "kernels") == set()


def test_numba_is_the_kernels_own():
    assert importers("numba", "npnet", "cli") == set()
    emitters = {"kernels/jit/vector.py", "kernels/jit/block.py"}
    compilation = {f"kernels/jit/{name}.py" for name in ("options", "helper", "cache", "ahead")}
    assert importers("numba", "kernels") == compilation | emitters


def test_only_the_allowed_libraries_are_imported():
    for room in EVERYWHERE:
        for path in sources(room):
            for name in imports(path):
                package = name.split(".")[0]
                allowed = RUNTIME | STANDARD | {"npnet", "matplotlib", "PIL", "h5py", "onnx"}
                assert package in allowed, f"{path} imports {name}"


def test_the_engine_prints_nothing():
    for room in ("npnet", "kernels"):
        for path in sources(room):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = node.func if isinstance(node, ast.Call) else None
                assert not (isinstance(called, ast.Name) and called.id == "print"), path


def test_importing_the_command_line_loads_nothing_heavy():
    code = "import sys, npnet.cli.main; print({'numpy', 'numba', 'mpi4py'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_importing_the_engine_starts_neither_mpi_nor_the_compiler():
    code = (
        "import sys, npnet.training.trainer, npnet.kernels.jit as j; print('mpi4py' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
