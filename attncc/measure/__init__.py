"""Measuring on this machine: variants beside other implementations of attention, and the choices of a schedule."""
