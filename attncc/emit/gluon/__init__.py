"""Gluon kernels for Hopper: the same drawing as for Triton, in the words of Gluon, cut into warps that load and compute."""
