"""The folder of compiled kernels: found, named after what it holds, and no danger when damaged."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from npnet.kernels.jit import block, cache, options
from npnet.kernels.jit.target import TARGET, TARGETS
from tests.launch import SOURCES
from tests.test_house import imports

SCRIPT = """
import numpy as np
from npnet.kernels.jit import residual_forward
from npnet.kernels.jit.options import cache_directory
x, y = np.array([-1, 2, 9], np.float32), np.empty(3, np.float32)
residual_forward(y, x, x)
print(cache_directory(), y.tolist(), len(getattr(residual_forward, "stats").cache_hits))
"""
MEANWHILE = "\nx, y ="  # where the kernels are imported and none is called
COMPILED, LOADED = "[-2.0, 4.0, 18.0] 0\n", "[-2.0, 4.0, 18.0] 1\n"

FULL_DISK = """
import errno, os
from numba.core.caching import IndexDataCacheFile
def full(self, name, data):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
IndexDataCacheFile._save_data = full
"""


def run(folder, before="", sources=SOURCES, meanwhile=""):
    environment = os.environ | {"NPNET_CACHE": str(folder)}
    environment.pop("NUMBA_DISABLE_JIT", None)
    script = SCRIPT.replace(MEANWHILE, f"\n{meanwhile}{MEANWHILE}")
    command = [sys.executable, "-c", before + script]
    return subprocess.run(
        command, cwd=sources, env=environment, capture_output=True, text=True, check=True
    )


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A root in which one kernel lies, compiled, and what its process said."""
    root = tmp_path_factory.mktemp("compiled")
    return root, run(root)


def test_helpers_of_one_factory_have_names_of_their_own():
    """Else one would run for both, now and then, where two processes filled the cache."""
    found = {}

    def collect(helper):
        function = getattr(helper, "py_func", helper)
        if not callable(function) or not hasattr(function, "__closure__"):
            return
        found.setdefault(function.__qualname__, set()).add(function)
        for cell in function.__closure__ or ():
            collect(cell.cell_contents)

    for product in (block._multiply, block._multiply_accumulate, block.multiply_stream):
        collect(product)
    widths = len(TARGET.blocks) + 1  # of panels: so many registers, and half a one
    assert len(found) == 3 * (1 + widths)  # three products
    assert all(len(functions) == 1 for functions in found.values()), found


def test_the_sources_of_the_code_are_all_that_it_imports():
    """As the parser sees it; the kernels themselves look at the lines only, which is faster."""
    kernels = SOURCES / "kernels"
    found = {kernels / path.relative_to(options.HOUSE) for path in options.sources()}
    assert kernels / "arrays.py" in found
    assert kernels / "registry.py" not in found
    assert set((kernels / "jit").rglob("*.py")) <= found
    for path in found:
        for name in imports(path):
            if name.startswith("npnet.kernels"):
                place = kernels.joinpath(*name.split(".")[2:])
                files = {place.with_suffix(".py"), place / "__init__.py"}
                assert {file for file in files if file.is_file()} <= found, name


@pytest.mark.compiled
class TestMachineCode:
    def test_the_second_start_loads_what_the_first_compiled(self, compiled):
        root, first = compiled
        second = run(root)
        assert first.stdout.endswith(COMPILED)
        assert second.stdout.endswith(LOADED)
        (folder,) = root.iterdir()
        assert first.stdout.startswith(str(folder))
        assert first.stderr == second.stderr == ""

    def test_a_loaded_kernel_s_text_is_folded_up(self, compiled):
        """Unfolded, those of a training step take 25 MB."""
        told = """
import atexit
loaded = residual_forward.overloads.values()
atexit.register(lambda: print([each.library._shared_module.closed for each in loaded]))
"""
        assert run(compiled[0], meanwhile=told).stdout.endswith("\n[True]\n")

    @pytest.mark.parametrize("cached", [True, False])
    def test_another_s_compiled_function_may_call_what_was_loaded(self, compiled, tmp_path, cached):
        (tmp_path / "mine.py").write_text(f"""
import numba
from npnet.kernels.jit import residual_forward
@numba.njit(cache={cached})
def mine(y, x):
    residual_forward(y, x, x)
    return y.sum()
""")
        use = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import numpy as np
from mine import mine
print(mine(np.zeros(2, np.float32), np.ones(2, np.float32)))
"""
        for _ in range(2):
            result = run(compiled[0], meanwhile=use)
            assert result.stdout.startswith("4.0\n")
            assert result.stderr == ""

    def test_a_program_may_close_what_it_does_not_know(self, compiled, tmp_path):
        """As one that becomes a daemon; and another folder may get the descriptor's number."""
        closing = f"""
import os
os.closerange(3, 256)
for _ in range(9):
    os.open({str(tmp_path)!r}, os.O_RDONLY)
"""
        result = run(compiled[0], meanwhile=closing)
        assert result.stdout.endswith(LOADED)
        assert result.stderr == ""
        assert list(tmp_path.iterdir()) == []

    def test_a_second_clone_loads_it_too(self, compiled, tmp_path):
        """Other place, other dates, same words."""
        for package in ("npnet", "kernels", "cli"):
            shutil.copytree(SOURCES / package, tmp_path / package, copy_function=shutil.copyfile)
        told = "import npnet; print(npnet.__file__)"  # of the working folder, the first place
        result = run(compiled[0], told, tmp_path)
        assert result.stdout.startswith(str(tmp_path))
        assert result.stdout.endswith(LOADED)

    @pytest.mark.parametrize("module", ["arrays.py", "jit/block.py"])
    def test_other_sources_are_compiled_anew(self, compiled, tmp_path, module):
        """Rows in another order, in a file beside: the old code would read the wrong ones."""
        for package in ("npnet", "kernels", "cli"):
            shutil.copytree(SOURCES / package, tmp_path / package, symlinks=True)
        file = tmp_path / "kernels" / module
        changed = file.read_text().replace("SCALE, SHIFT,", "SHIFT, SCALE,") + "\n"
        file.write_text(changed)
        root = shutil.copytree(compiled[0], tmp_path / "copy")
        assert run(root, sources=tmp_path).stdout.endswith(COMPILED)
        assert len(list(root.iterdir())) == 2

    def test_without_a_folder_it_compiles_anew_and_says_so(self, tmp_path):
        occupied = tmp_path / "a file"
        occupied.touch()
        result = run(occupied)
        assert result.stdout == "None " + COMPILED
        assert result.stderr.count("name a folder of your own in NPNET_CACHE") == 1

    @pytest.mark.parametrize("place", [".", "..", "../.."])
    def test_a_folder_that_others_can_write_is_not_trusted(
        self, compiled, tmp_path, monkeypatch, place
    ):
        """Nor one below such a folder, where they could put another in its place."""
        root = shutil.copytree(compiled[0], tmp_path / "above" / "root")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "private"))
        (folder,) = root.iterdir()
        os.chmod(folder / place, 0o777)
        result = run(root)
        assert result.stdout.startswith(f"{tmp_path}/private/npnet/{folder.name} [")
        assert result.stdout.endswith(COMPILED)
        (line,) = [line for line in result.stderr.splitlines() if "CacheWarning: " in line]
        assert f"others can write there: {(folder / place).resolve()}" in line
        assert run(root).stdout.endswith(LOADED)

    @pytest.mark.skipif(not os.path.isdir(cache.DESCRIPTORS), reason="no /proc here")
    def test_what_takes_the_folder_s_place_is_not_read(self, compiled, tmp_path):
        """Once it was found to be the user's own, it is that folder, whatever its path says."""
        root = shutil.copytree(compiled[0], tmp_path / "root")
        result = run(
            root,
            meanwhile=f"""
import os, pathlib
os.rename({str(root)!r}, {str(tmp_path / "away")!r})
for file in pathlib.Path({str(tmp_path / "away")!r}).glob("*/*.nb?"):
    planted = pathlib.Path({str(root)!r}, file.parent.name, file.name)
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_bytes(b"another's")
""",
        )
        assert result.stdout.endswith(LOADED)
        assert result.stderr == ""
        assert {file.read_bytes() for file in root.glob("*/*")} == {b"another's"}

    @pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
    def test_a_file_that_others_can_write_is_not_read(self, compiled, tmp_path, suffix):
        root = shutil.copytree(compiled[0], tmp_path / "copy")
        for file in root.glob(f"*/*{suffix}"):
            file.chmod(0o666)
        result = run(root)
        assert result.stdout.endswith(COMPILED)
        assert "were damaged" in result.stderr
        assert run(root).stdout.endswith(LOADED)

    def test_a_folder_that_cannot_be_written_is_used(self, compiled, tmp_path):
        """As of an image that is mounted to be read."""
        root = shutil.copytree(compiled[0], tmp_path / "copy")
        read_only = """
import errno, os, tempfile
make = tempfile.TemporaryFile
def refuse(*arguments, dir=None, **options):
    if str(dir).startswith(os.environ["NPNET_CACHE"]):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    return make(*arguments, dir=dir, **options)
tempfile.TemporaryFile = refuse
"""
        result = run(root, read_only)
        assert result.stdout.endswith(LOADED)
        assert result.stderr == ""
        empty = run(tmp_path / "empty", read_only)
        assert empty.stdout == "None " + COMPILED
        assert "(Read-only file system)" in empty.stderr

    @pytest.mark.parametrize("kind", ["nbc", "nbi"])
    @pytest.mark.parametrize("damage", ["cut off", "one bit", "zeros", "empty"])
    def test_a_damaged_file_is_compiled_anew(self, compiled, tmp_path, kind, damage):
        """Once, and with a warning; the next start loads again."""
        root = shutil.copytree(compiled[0], tmp_path / "copy")
        (file,) = root.glob(f"*/*residual_forward*.{kind}")
        data = bytearray(file.read_bytes())
        if damage == "one bit":
            data[len(data) // 2] ^= 1
        changed = {"cut off": data[: len(data) // 2], "zeros": bytes(len(data)), "empty": b""}
        file.write_bytes(changed.get(damage, data))
        result, next_result = run(root), run(root)
        assert result.stdout.endswith(COMPILED)
        # One bit of an index may just make it one of something else.
        told = result.stderr.count("were damaged: they are compiled anew")
        assert told == 1 or (kind, damage) == ("nbi", "one bit")
        assert next_result.stdout.endswith(LOADED)
        assert next_result.stderr == ""

    def test_a_full_disk_costs_no_more_than_a_warning(self, tmp_path):
        result = run(tmp_path, FULL_DISK)
        assert result.stdout.endswith(COMPILED)
        assert result.stderr.count("cannot be kept") == 1
        assert "(No space left on device)" in result.stderr


class TestFolder:
    @pytest.fixture(autouse=True)
    def place(self, tmp_path, monkeypatch):
        monkeypatch.setenv("NPNET_CACHE", str(tmp_path / "root"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "private"))

    def test_it_is_private(self, tmp_path):
        folder = cache.open_folder("name")
        assert folder == str(tmp_path / "root" / "name")
        assert Path(folder).stat().st_mode & 0o777 == 0o700

    @pytest.mark.skipif(not os.path.isdir(cache.DESCRIPTORS), reason="no /proc here")
    def test_one_that_is_replaced_while_it_is_looked_at_is_not_taken(self, monkeypatch, tmp_path):
        allowed = cache.own

        def own_and_swapped(folder):
            if folder == tmp_path / "root" / "name" and folder.exists():
                folder.rename(tmp_path / "away")
            return allowed(folder)

        monkeypatch.setattr(cache, "own", own_and_swapped)
        with pytest.warns(cache.CacheWarning, match="root/name was replaced"):
            assert cache.open_folder("name") == str(tmp_path / "private" / "npnet" / "name")

    def test_another_s_is_not_taken(self, monkeypatch, tmp_path):
        """By root neither: a user whose folder it is could put code there that root would run."""
        assert cache.open_folder("name") is not None
        monkeypatch.setattr(cache, "trusted", lambda: {os.stat("/").st_uid + 1})
        monkeypatch.setattr(cache, "NODE_LOCAL", tmp_path)
        with pytest.warns(cache.CacheWarning, match="belongs to another user"):
            assert cache.open_folder("name") is None

    def test_a_link_of_another_user_is_not_followed(self, monkeypatch, tmp_path):
        (tmp_path / "mine").mkdir(mode=0o700)
        (tmp_path / "link").symlink_to(tmp_path / "mine")
        cache.own(tmp_path / "link" / "name")
        if os.geteuid() == 0:
            os.lchown(tmp_path / "link", 12345, 12345)
            with pytest.raises(cache.UntrustedError, match="link belongs to another user"):
                cache.own(tmp_path / "link" / "name")

    def test_what_is_made_is_private_all_the_way(self, tmp_path):
        before = os.umask(0)
        try:
            cache.own(tmp_path / "a" / "b" / "c")
        finally:
            os.umask(before)
        for place in ("a", "a/b", "a/b/c"):
            assert (tmp_path / place).stat().st_mode & 0o777 == 0o700

    def test_a_sticky_folder_is_one_for_all(self, tmp_path):
        """As /tmp and /var/tmp are: there nobody can replace what is another's."""
        (tmp_path / "tmp").mkdir()
        (tmp_path / "tmp").chmod(0o1777)
        cache.own(tmp_path / "tmp" / "name")
        (tmp_path / "tmp").chmod(0o777)
        with pytest.raises(cache.UntrustedError, match="others can write there"):
            cache.own(tmp_path / "tmp" / "name")

    def test_a_group_of_one_user_is_that_user(self, monkeypatch, tmp_path):
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache").chmod(0o775)
        for private in (True, False):
            monkeypatch.setattr(cache, "is_private", lambda group, private=private: private)
            if private:
                cache.own(tmp_path / "cache" / "name")
            else:
                with pytest.raises(cache.UntrustedError):
                    cache.own(tmp_path / "cache" / "name")

    def test_it_is_refused_if_it_is_a_link(self, tmp_path):
        (tmp_path / "root").mkdir()
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        (tmp_path / "root" / "name").symlink_to(tmp_path / "elsewhere")
        with pytest.warns(cache.CacheWarning, match="a link"):
            assert cache.open_folder("name") is None

    def other(self, monkeypatch, **settings):
        """The folder under other settings of the environment."""
        with monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            return options.cache_directory.__wrapped__()

    @pytest.mark.compiled
    def test_compiler_s_settings_have_their_own(self, monkeypatch, tmp_path):
        usual = options.cache_directory.__wrapped__()
        assert self.other(monkeypatch, NUMBA_NUM_THREADS="3", NUMBA_CACHE_DIR="x") == usual
        assert self.other(monkeypatch, NUMBA_OPT="1") != usual
        assert self.other(monkeypatch, NUMBA_CPU_NAME="generic") != usual
        for library in (options.numba, options.llvmlite):
            with monkeypatch.context() as patch:
                patch.setattr(library, "__version__", "another")
                assert options.cache_directory.__wrapped__() != usual
        monkeypatch.chdir(tmp_path)
        Path(".numba_config.yaml").write_text("opt: 1\n")
        assert options.cache_directory.__wrapped__() != usual

    @pytest.mark.compiled
    def test_each_row_of_the_table_of_processors_has_its_own(self, monkeypatch):
        folders = set()
        for row in TARGETS.values():
            monkeypatch.setattr(options, "TARGET", row)
            folders.add(options.cache_directory.__wrapped__())
        assert len(folders) == len(set(TARGETS.values())) > 3  # two are alike
        assert all(platform.node() in folder for folder in folders)


class TestRoot:
    @pytest.fixture(autouse=True)
    def disks(self, tmp_path, monkeypatch):
        """Home on NFS, the rest on this node."""
        self.home, self.local = tmp_path / "home" / "me", tmp_path / "local"
        self.local.mkdir()
        types = {"/": "ext4", str(tmp_path / "home"): "nfs4"}
        self.mount(monkeypatch, types)
        monkeypatch.setattr(cache, "NODE_LOCAL", self.local)
        monkeypatch.setenv("HOME", str(self.home))
        for name in ("NPNET_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        self.own = self.local / f"npnet-{os.geteuid()}"
        self.in_home = self.home / ".cache" / "npnet"

    def mount(self, monkeypatch, types):
        disks = [SimpleNamespace(mountpoint=at, fstype=kind) for at, kind in types.items()]
        monkeypatch.setattr(cache.psutil, "disk_partitions", lambda all: disks)

    def test_a_home_on_the_network_is_left_for_a_private_folder_of_the_node(self):
        assert cache.root() == self.own
        assert self.own.stat().st_mode & 0o777 == 0o700
        assert not self.home.exists()

    @pytest.mark.parametrize("kind", ["nfs", "cifs", "fuse.sshfs", "lustre"])
    def test_the_nearest_mount_counts(self, monkeypatch, kind):
        self.mount(monkeypatch, {"/": "nfs", str(self.home): "ext4"})
        assert cache.root() == self.in_home
        self.mount(monkeypatch, {"/": "ext4", str(self.home): kind})
        assert cache.root() == self.own

    def test_a_link_is_followed(self, tmp_path, monkeypatch):
        (tmp_path / "home" / "me").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "home")
        monkeypatch.setenv("HOME", str(tmp_path / "link" / "me"))
        assert cache.root() == self.own

    def test_a_folder_that_another_made_first_is_not_used(self):
        self.own.symlink_to(self.local)
        assert cache.root() == self.in_home
        self.own.unlink()
        self.own.mkdir()
        self.own.chmod(0o777)
        assert cache.root() == self.in_home

    def test_home_is_kept_where_nothing_is_nearer(self, monkeypatch):
        for types in ({"/": "ext4"}, {"/": "nfs"}, {}):
            self.mount(monkeypatch, types)
            assert cache.root() == self.in_home

    def test_a_chosen_folder_is_not_questioned(self, monkeypatch):
        monkeypatch.setenv("NPNET_CACHE", str(self.home))
        assert cache.root() == self.home
