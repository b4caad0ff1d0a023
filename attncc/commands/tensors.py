"""The tensors that a command line brings: captured tensors from files, example data for those that are not given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attncc.analysis import Box, Interval, bounds
from attncc.errors import InputError
from attncc.ir import ANY_DIM, AttentionSpec, Capture, Expr, Op, Scalar, postorder

if TYPE_CHECKING:
    from torch import Generator, Tensor

GROUPS = 8  # how many documents, buckets or kinds example data has
MAX_SIZE = 1 << 24


def read_tensor(name: str, text: str) -> Tensor:
    """The tensor in a file: NAME.npy, or NAME.safetensors with an optional :KEY. Raises InputError if it cannot be."""
    path, key = _split_key(text)
    if not path.is_file():
        raise InputError(f"capture `{name}`: there is no file {path}", hint=f"paths start at {Path.cwd()}")
    match path.suffix:
        case ".npy":
            return _read_npy(name, path)
        case ".safetensors":
            return _read_safetensors(name, path, key)
    raise InputError(f"capture `{name}`: {path} is neither .npy nor .safetensors", hint="numpy.save writes a .npy file")


def _split_key(text: str) -> tuple[Path, str | None]:
    head, found, key = text.partition(".safetensors:")
    return (Path(f"{head}.safetensors"), key) if found else (Path(text), None)


def _read_npy(name: str, path: Path) -> Tensor:
    import numpy
    import torch

    try:
        return torch.from_numpy(numpy.load(path, allow_pickle=False))
    except (ValueError, EOFError, TypeError, OSError) as error:
        raise InputError(f"capture `{name}`: {path} cannot be read: {error}") from None


def _read_safetensors(name: str, path: Path, key: str | None) -> Tensor:
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError:
        hint = "pip install 'attncc[safetensors]', or store the tensor as .npy"
        raise InputError(f"capture `{name}`: reading {path} needs the package safetensors", hint=hint) from None
    try:
        with safe_open(path, framework="pt") as file:
            keys: list[str] = sorted(file.keys())
            alone = name not in keys and len(keys) == 1
            chosen: str = key or (keys[0] if alone else name)
            if chosen in keys:
                tensor: Tensor = file.get_tensor(chosen)
                return tensor
    except (SafetensorError, OSError) as error:
        raise InputError(f"capture `{name}`: {path} cannot be read: {error}") from None
    names = f"it has {', '.join(keys)}: write {path}:KEY" if keys else None
    raise InputError(f"capture `{name}`: {path} has no tensor `{key or name}`", hint=names)


def example_captures(
    spec: AttentionSpec, sizes: Mapping[str, int], given: Mapping[str, Tensor], seed: int, device: str
) -> dict[str, Tensor]:
    """Seeded example data for the captured tensors that are not given; `sizes` gives batch, heads, q_len, kv_len."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    examples: dict[str, Tensor] = {}
    for capture in spec.captures:
        if capture.name not in given:
            shape = [_size(spec, capture, axis, sizes) for axis in range(capture.rank)]
            limit = _index_limit(spec, capture, sizes)
            examples[capture.name] = _example(capture, shape, limit, sizes, generator).to(device)
    return examples


def _example(
    capture: Capture, shape: list[int], limit: int | None, sizes: Mapping[str, int], generator: Generator
) -> Tensor:
    import torch

    if capture.scalar is Scalar.FLOAT:
        return torch.rand(shape, generator=generator)
    if capture.scalar is Scalar.BOOL:
        return torch.rand(shape, generator=generator) < 0.5
    if capture.dims and capture.dims[-1] in ("q_len", "kv_len"):  # consecutive groups, such as packed documents
        groups = min(GROUPS, limit or GROUPS)
        return torch.sort(torch.randint(0, groups, shape, generator=generator), -1).values
    return torch.randint(0, limit or max(1, sizes["kv_len"]), shape, generator=generator)


def _size(spec: AttentionSpec, capture: Capture, axis: int, sizes: Mapping[str, int]) -> int:
    """The size of a dimension: as declared, or as large as its indices need."""
    dim = capture.dims[axis]
    if isinstance(dim, int):
        return dim
    if dim != ANY_DIM:
        return sizes[dim]
    needed = 1
    for read in _reads(spec, capture.name):
        found = bounds(read.args[axis], _box(spec, sizes))
        reach = max(found.hi + 1, -found.lo) if not found.nan else math.inf
        if reach > MAX_SIZE:
            raise InputError(
                f"no example data for `{capture.name}`: the index of dimension {axis} has no bound",
                hint=f"give the tensor: --capture {capture.name}=FILE.npy",
            )
        needed = max(needed, int(reach))
    return needed


def _index_limit(spec: AttentionSpec, capture: Capture, sizes: Mapping[str, int]) -> int | None:
    """Below what the values of an int tensor must stay, because another tensor is read at them; None: anything."""
    limits: list[int] = []
    for expr in postorder(spec.score, spec.mask):
        if expr.op is Op.LOAD and expr.value != capture.name:
            dims = spec.capture(str(expr.value)).dims
            for dim, index in zip(dims, expr.args, strict=True):
                if any(node.op is Op.LOAD and node.value == capture.name for node in postorder(index)):
                    limits.append(GROUPS if dim == ANY_DIM else sizes[dim] if isinstance(dim, str) else dim)
    return max(1, min(limits)) if limits else None


def _box(spec: AttentionSpec, sizes: Mapping[str, int]) -> Box:
    lasts = {"b": "batch", "h": "heads", "q_idx": "q_len", "kv_idx": "kv_len"}
    inputs = {name: Interval(0, max(0, sizes[size] - 1)) for name, size in lasts.items()}
    inputs |= {name: Interval(value, value) for name, value in sizes.items()}
    inputs |= {p.name: Interval(p.value, p.value) for p in spec.parameters}
    groups = {read: Interval(0, GROUPS - 1) for capture in spec.captures for read in _reads(spec, capture.name)}
    return Box(inputs, {read: span for read, span in groups.items() if read.scalar is Scalar.INDEX})


def _reads(spec: AttentionSpec, name: str) -> list[Expr]:
    return [e for e in postorder(spec.score, spec.mask) if e.op is Op.LOAD and e.value == name]
