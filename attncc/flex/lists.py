"""Lists of blocks: for each row of blocks how many there are, and which columns; and the same as a table.

A table holds 0, 1 or 2 for each block: skipped, partial, full. Lists come in pairs (count, columns), in ascending
order, followed by the columns that are not visited, as torch writes them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attncc.errors import InputError
from attncc.runtime.tiles import FULL, PARTIAL

Lists = tuple[Tensor, Tensor]


def listed(present: Tensor) -> Lists:
    """The lists of a table of which blocks are there. Shapes: [..., R, C] gives [..., R] and [..., R, C]."""
    columns = torch.argsort(present.to(torch.int8), dim=-1, descending=True, stable=True)
    return present.sum(-1, dtype=torch.int32), columns.to(torch.int32)


def tabulated(counts: Tensor, columns: Tensor, width: int) -> Tensor:
    """Which of `width` columns the lists name, [..., R, width]; entries beyond a row's count mean nothing."""
    if counts.shape != columns.shape[:-1]:
        shapes = f"{list(counts.shape)} and {list(columns.shape)}"
        raise InputError(f"the lists of a block mask do not fit each other: {shapes}")
    given = torch.arange(columns.shape[-1], device=columns.device) < counts.unsqueeze(-1)
    inside = given & (columns >= 0) & (columns < width)
    target = torch.where(inside, columns, width).long()
    table = torch.zeros(*columns.shape[:-1], width + 1, dtype=torch.bool, device=columns.device)
    return table.scatter_(-1, target, True)[..., :width]


def classes_of(partial: Lists, full: Lists | None, width: int) -> Tensor:
    """The table of classes that two pairs of lists describe. Shape: int8 [..., R, width]."""
    classes = tabulated(*partial, width).to(torch.int8) * PARTIAL
    return classes if full is None else classes.masked_fill_(tabulated(*full, width), FULL)
