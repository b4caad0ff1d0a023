"""The gallery: attention variants as plain functions, each with its formula, its citation and example data."""
