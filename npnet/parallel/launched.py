"""What a launcher tells a process of who it is, before MPI starts; and a child that is no rank.

Loads nothing, so that the command line can ask before it sets the number of threads.
"""

import os

# The variables by which MPICH's and Open MPI's launchers tell a process who it is.
_RANK_VARIABLES = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
_SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
_LOCAL_RANK_VARIABLES = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")
_OF_LAUNCHERS = ("PMI", "OMPI_", "OPAL_", "PRTE_", "HYDRA_", "HYDI_", "MPI", "I_MPI_", "SLURM_")
_OF_USERS = ("MPI4PY_",)  # which MPI library mpi4py is to load, among others


def launched_size() -> int | None:
    """The number of processes that a launcher says it started, None without a launcher."""
    size = _environment_number(_SIZE_VARIABLES)
    if size is None and "PMIX_RANK" in os.environ:  # srun --mpi=pmix
        return _environment_number(("SLURM_NTASKS",))
    return size


def launched_several() -> bool:
    """Whether this process is one of several that a launcher started."""
    return (launched_size() or 1) > 1


def launched_rank() -> int:
    """This process's rank as the launcher says it, known before MPI starts; 0 without one."""
    return _environment_number(_RANK_VARIABLES) or 0


def launched_local_rank() -> int:
    """This process's number on its node as the launcher says it; 0 if it says nothing."""
    return _environment_number(_LOCAL_RANK_VARIABLES) or 0


def environment_of_no_rank() -> dict[str, str]:
    """This process's environment for a child that must not take itself for one of the ranks."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_OF_USERS) or not name.startswith(_OF_LAUNCHERS)
    }


def _environment_number(names: tuple[str, ...]) -> int | None:
    values = (os.environ.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdigit()), None)
