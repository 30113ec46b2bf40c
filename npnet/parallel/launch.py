"""Starting ranks: which mpiexec there is, and how it wants its words."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from npnet.errors import NpnetError

# Open MPI asks twice before it starts as root, as in a container, and before it starts more ranks
# than there are cores.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


class Launcher(NamedTuple):
    """The mpiexec beside this Python, or else the system's: its path, and whose it is."""

    path: str
    maker: Literal["mpich", "openmpi"]

    @classmethod
    def find(cls) -> "Launcher":
        """Raises NpnetError where there is none, or it does not run."""
        beside = Path(sys.executable).parent / "mpiexec"
        path = str(beside) if beside.exists() else shutil.which("mpiexec")
        if path is None:
            raise NpnetError("no mpiexec is installed: pip install 'npnet[mpi]' brings one")
        try:
            told = subprocess.run(
                [path, "--version"],
                capture_output=True,
                text=True,
                errors="replace",
                check=True,
                timeout=60,
                env=environment_of_launcher(),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise NpnetError(f"{path} --version does not run: {error}") from error
        return cls(path, "openmpi" if "Open MPI" in told.stdout else "mpich")

    def command(
        self,
        program: Sequence[str],
        ranks: int,
        machinefile: Path | None = None,
        ranks_per_node: int | None = None,
    ) -> list[str]:
        """The command line that starts `program` on `ranks` ranks.

        With a machinefile each rank is bound to a core: two that share one would wait for each
        other.
        """
        words = [self.path, "-n", str(ranks)]
        if machinefile is not None:
            if self.maker == "openmpi":
                words += ["--hostfile", str(machinefile), "--bind-to", "core"]
                if ranks_per_node:
                    words += ["--map-by", f"ppr:{ranks_per_node}:node"]
            else:
                words += ["-machinefile", str(machinefile), "-bind-to", "core"]
                if ranks_per_node:
                    words += ["-ppn", str(ranks_per_node)]
        return [*words, *program]


def environment_of_launcher() -> dict[str, str]:
    """For mpiexec and its ranks: the user's own, and what Open MPI asks for unless it is there."""
    return OPEN_MPI | os.environ
