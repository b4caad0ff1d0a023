"""Kernels in Triton: how expressions are written there, which tiles a loop visits, and what the templates are told."""
