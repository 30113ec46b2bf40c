"""What the kernels cost on a Raspberry Pi's processor, found on a PC.

    static      cycles of each kernel and of a training step, from the machine code
    predict     images/s of a Raspberry Pi, from what static has counted
    blocks      register blocks of the matrix product compared
    tiles       sizes of tiles compared, and how far ahead memory is asked

How: Numba's own pipeline compiles a kernel for the other processor (`cross`). The optimised text
that the machine code is made from also runs here, in a real training step (`step`), with a counter
in each block (`counting`) and a model of the caches (`caches`). The machine code is cut into the
same blocks (`assembly`), and llvm-mca says how many cycles each takes (`mca`). A kernel costs the
sum of cycles times count (`cost`). What a step has cost is kept in records/ (`counts`).
"""
