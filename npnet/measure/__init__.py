"""Measuring: kernels and steps, the roofline, gradients against finite differences."""
