"""The table of processors, and NPNET_TARGET, which chooses a row of it."""

import os
import subprocess
import sys

import pytest

from npnet.kernels import SettingError
from npnet.kernels.jit import target
from npnet.kernels.jit.target import TARGETS
from tests.launch import SOURCES


@pytest.mark.parametrize("name", TARGETS)
def test_the_environment_chooses_a_row(monkeypatch, name):
    monkeypatch.setenv("NPNET_TARGET", name)
    monkeypatch.setattr(target.llvm, "llvm_version_info", (17, 0, 0))
    assert target.target_row() == name


@pytest.mark.parametrize(
    ("machine", "processor", "features", "fits"),
    [
        ("x86_64", "znver4", {"avx512f": True, "avx2": True}, "avx512"),
        ("x86_64", "znver2", {"avx2": True}, "avx2"),
        ("x86_64", "nehalem", {}, "armv8"),
        ("aarch64", "cortex-a72", {"neon": True}, "cortex-a72"),
        ("aarch64", "cortex-a76", {"neon": True}, "cortex-a76"),
        ("aarch64", "cortex-a53", {"neon": True}, "armv8"),
        ("arm64", "apple-m1", {"neon": True}, "armv8"),
        ("aarch64", "generic", None, "armv8"),
    ],
)
def test_without_a_choice_the_processor_s_own_row_is_taken(
    monkeypatch, machine, processor, features, fits
):
    """No ARM core passes for a Cortex-A72 that is none, and none needs to be known by features."""

    def host_features():
        if features is None:
            raise RuntimeError("no features of this processor are known")
        return features

    monkeypatch.setattr(target.platform, "machine", lambda: machine)
    monkeypatch.setattr(target.llvm, "get_host_cpu_name", lambda: processor)
    monkeypatch.setattr(target.llvm, "get_host_cpu_features", host_features)
    for nothing in ("", None):
        if nothing is None:
            monkeypatch.delenv("NPNET_TARGET", raising=False)
        else:
            monkeypatch.setenv("NPNET_TARGET", nothing)
        assert target.target_row() == fits


def test_an_unknown_row_is_one_sentence():
    """When the kernels are imported, before anything is compiled."""
    script = "from npnet.kernels import backend; backend('numba')"
    environment = os.environ | {"NPNET_TARGET": "avx1024"}
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=SOURCES, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "npnet.kernels.SettingError: NPNET_TARGET=avx1024 is no row of kernels/jit/target.py: "
        "choose one of avx512, avx2, cortex-a72, cortex-a76, armv8"
    )


def test_what_an_old_compiler_cannot_compile_is_refused(monkeypatch):
    monkeypatch.setattr(target.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(target.llvm, "llvm_version_info", (15, 0, 7))
    assert target.executable_rows() == ("avx512", "avx2")
    monkeypatch.setenv("NPNET_TARGET", "cortex-a72")
    with pytest.raises(SettingError, match="choose one of avx512, avx2, or install a newer Numba"):
        target.target_row()
    monkeypatch.setattr(target.platform, "machine", lambda: "aarch64")
    assert target.executable_rows() == tuple(TARGETS)
