"""Gluon kernels for Hopper: drawn as for Triton, in the words of Gluon, cut into warps that load and that compute."""
