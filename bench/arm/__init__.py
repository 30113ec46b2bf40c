"""What the kernels cost on a Raspberry Pi's processor, found on a PC.

    static      cycles of each kernel and of a training step, from the machine code
    blocks      register blocks of the matrix product compared

How: Numba's own pipeline compiles a kernel for the other processor (`cross`). The optimised text
that the machine code is made from also runs here, with a counter in each block (`counting`). The
machine code is cut into the same blocks (`assembly`), and llvm-mca says how many cycles each takes
(`mca`). A kernel costs the sum of cycles times count (`cost`).
"""
