"""npnet: MobileNetV2 training from scratch on NumPy and Numba, data-parallel over MPI.

Importing this package loads nothing heavy, so that thread counts can be set before NumPy is
loaded (`npnet.machine.threads`). Import what you need from its rooms: `npnet.model`,
`npnet.training`, `npnet.data`, `npnet.parallel`, `npnet.kernels`.
"""

__version__ = "0.1.0"
