"""Convolution, pooling, padding and upsampling in the forms that XLA computes fast.

Images are channels-last, `(N, H, W, C)`; kernels are `(kH, kW, C_in, C_out)`.  Which forms are fast
changes with the version of XLA: `benchmarks/convolution.py` measures them beside the plain ones.

A function is differentiable in forward and in reverse mode unless its name ends in `_reverse`:
those have gradients that are written out, which are faster, and through which `jax.jvp` raises.
Where a form is fast on a CPU alone, `jax.lax.platform_dependent` chooses it.
"""
