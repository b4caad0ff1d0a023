"""Example data for the gallery: seeded captures of the sizes that a variant declares.

Each function takes `Sizes` and a generator and returns the captures by name. The data is random but typical: documents
of uneven length, a tree of drafts, slopes as ALiBi prescribes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from attncc.variants.bias import alibi_slopes, sandwich_waves
from attncc.variants.tree import walk_times


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a problem that captures depend on; `parameters` are the variant's integers."""

    batch: int
    heads: int
    q_len: int
    kv_len: int
    parameters: dict[str, int]


Captures = dict[str, Tensor]
Example = Callable[[Sizes, Generator], Captures]


def uniform(generator: Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Float32 values between low and high."""
    return low + (high - low) * torch.rand(*shape, generator=generator)


def integers(generator: Generator, *shape: int, low: int = 0, high: int) -> Tensor:
    """Int64 values from low to high, high excluded; low where there is no room."""
    return torch.randint(low, max(high, low + 1), shape, generator=generator)


def some(generator: Generator, *shape: int, share: float) -> Tensor:
    """Bools, true with the probability `share`."""
    return torch.rand(*shape, generator=generator) < share


def per_head(name: str, low: float, high: float) -> Example:
    """A float for each head."""
    return lambda sizes, generator: {name: uniform(generator, sizes.heads, low=low, high=high)}


def none(sizes: Sizes, generator: Generator) -> Captures:
    """No captures."""
    return {}


def slopes(sizes: Sizes, generator: Generator) -> Captures:
    """ALiBi's own slopes."""
    return {"slopes": alibi_slopes(sizes.heads)}


def document_ids(sizes: Sizes, generator: Generator) -> Tensor:
    """Ids that rise from document to document; four to six documents in a long row."""
    starts = some(generator, sizes.batch, sizes.kv_len, share=5 / max(sizes.kv_len, 5))
    return starts.cumsum(dim=1)


def doc_ids(sizes: Sizes, generator: Generator) -> Captures:
    """An id for each token."""
    return {"doc_ids": document_ids(sizes, generator)}


def starts(sizes: Sizes, generator: Generator) -> Captures:
    """For each query the first token of its document."""
    begins = document_ids(sizes, generator)[:, : sizes.q_len].diff(dim=1, prepend=torch.zeros(sizes.batch, 1)) > 0
    position = torch.arange(sizes.q_len).expand(sizes.batch, -1)
    return {"starts": torch.where(begins, position, 0).cummax(dim=1).values}


def families(sizes: Sizes, generator: Generator) -> Captures:
    """Documents of which every second has the one before it as its parent."""
    ids = document_ids(sizes, generator)
    count = int(ids.max()) + 1 if ids.numel() else 1
    parents = torch.tensor([number - 1 if number % 2 else -1 for number in range(count)])
    return {"doc_ids": ids, "parents": parents}


def lengths(name: str) -> Example:
    """For each sequence a position in it; the first sequence is used whole, a second not at all."""

    def example(sizes: Sizes, generator: Generator) -> Captures:
        values = integers(generator, sizes.batch, high=sizes.kv_len + 1)
        values[:1] = sizes.kv_len
        values[2:3] = 0
        return {name: values}

    return example


def left_starts(sizes: Sizes, generator: Generator) -> Captures:
    """For each sequence where it begins; the first at once, the second late."""
    values = integers(generator, sizes.batch, high=sizes.kv_len)
    values[:1] = 0
    return {"starts": values}


def foreground(sizes: Sizes, generator: Generator) -> Captures:
    """A third of the tokens."""
    return {"foreground": some(generator, sizes.batch, sizes.kv_len, share=0.35)}


def t5_table(sizes: Sizes, generator: Generator) -> Captures:
    """A value for each head and bucket."""
    return {"table": uniform(generator, sizes.heads, sizes.parameters["buckets"], low=-1)}


def clipped_table(sizes: Sizes, generator: Generator) -> Captures:
    """A value for each head and clipped distance."""
    return {"table": uniform(generator, sizes.heads, 2 * sizes.parameters["reach"] + 1, low=-1)}


def relative_table(sizes: Sizes, generator: Generator) -> Captures:
    """A value for each head and distance."""
    return {"table": uniform(generator, sizes.heads, sizes.q_len + sizes.kv_len - 1, low=-1)}


def pairs(sizes: Sizes, generator: Generator) -> Captures:
    """A value for each pair, of rank one in each head."""
    rows = uniform(generator, sizes.batch, sizes.heads, sizes.q_len, 1, low=-2, high=2)
    return {"bias": rows * uniform(generator, sizes.batch, sizes.heads, 1, sizes.kv_len, low=-1)}


def graph(sizes: Sizes, generator: Generator) -> Captures:
    """Hops along a ring of tokens, at most 11, and a value for each head and number of hops."""
    hops = (torch.arange(sizes.q_len)[:, None] - torch.arange(sizes.kv_len)).abs()
    hops = torch.minimum(hops, max(sizes.q_len, sizes.kv_len) - hops).clamp(max=11)
    table = uniform(generator, sizes.heads, 12, low=-1)
    return {"table": table, "hops": hops.expand(sizes.batch, -1, -1).contiguous()}


def forgetting(sizes: Sizes, generator: Generator) -> Captures:
    """Running sums of the logarithm of forget gates near one."""
    gates = uniform(generator, sizes.batch, sizes.heads, sizes.kv_len, low=0.9, high=1.0)
    return {"log_forget": gates.log().cumsum(dim=-1)}


def sandwich(sizes: Sizes, generator: Generator) -> Captures:
    """The prescribed ratios and waves."""
    ratios = 8 * torch.arange(1, sizes.heads + 1) / sizes.heads
    return {"waves": sandwich_waves(max(sizes.q_len, sizes.kv_len)), "ratios": ratios}


def kerple(sizes: Sizes, generator: Generator) -> Captures:
    """Positive strengths and sharpnesses."""
    drawn = uniform(generator, 2, sizes.heads, low=0.2, high=1.5)
    return {"strength": drawn[0], "sharpness": drawn[1]}


def weights(sizes: Sizes, generator: Generator) -> Captures:
    """Positive weights, and a tenth of zeros."""
    drawn = uniform(generator, sizes.batch, sizes.kv_len, low=0.1, high=2.0)
    return {"weights": torch.where(some(generator, sizes.batch, sizes.kv_len, share=0.1), 0.0, drawn)}


def offsets_2d(sizes: Sizes, generator: Generator) -> Captures:
    """A value for each head and offset in two dimensions."""
    side = 2 * sizes.parameters["window"] - 1
    return {"table": uniform(generator, sizes.heads, side, side, low=-1)}


def spatial(sizes: Sizes, generator: Generator) -> Captures:
    """Every second head is spatial."""
    return {"spatial": torch.arange(sizes.heads) % 2 == 0}


def tree_parents(sizes: Sizes, generator: Generator) -> list[int]:
    """A random tree: each node hangs below one of the eight before it."""
    steps = integers(generator, sizes.q_len, low=1, high=9).tolist()
    return [max(node - step, 0) if node else -1 for node, step in enumerate(steps)]


def ancestors(sizes: Sizes, generator: Generator) -> Captures:
    """Which node is an ancestor of which, itself included."""
    found = torch.eye(sizes.q_len, dtype=torch.bool)
    for node, parent in enumerate(tree_parents(sizes, generator)):
        if parent >= 0:
            found[node] |= found[parent]
    return {"ancestors": found}


def intervals(sizes: Sizes, generator: Generator) -> Captures:
    """The times of a walk through another tree for each sequence."""
    walks = [walk_times(tree_parents(sizes, generator)) for _ in range(sizes.batch)]
    return {"enter": torch.stack([enter for enter, _ in walks]), "leave": torch.stack([leave for _, leave in walks])}


def head_windows(sizes: Sizes, generator: Generator) -> Captures:
    """Windows that double from head to head."""
    return {"windows": 4 * 2 ** torch.arange(sizes.heads)}


def retrieval(sizes: Sizes, generator: Generator) -> Captures:
    """Every fourth head retrieves."""
    return {"retrieval": torch.arange(sizes.heads) % 4 == 1}


def global_tokens(sizes: Sizes, generator: Generator) -> Captures:
    """The first token, and one in fifty."""
    chosen = some(generator, sizes.batch, sizes.kv_len, share=0.02)
    chosen[:, :1] = True
    return {"is_global": chosen}


def blocks_of(length: int, sizes: Sizes) -> int:
    """How many blocks cover a length."""
    return -(-length // sizes.parameters["block"])


def random_blocks(sizes: Sizes, generator: Generator) -> Captures:
    """Two blocks of keys for each block of queries."""
    drawn = integers(generator, blocks_of(sizes.q_len, sizes), 2, high=blocks_of(sizes.kv_len, sizes))
    return {"random_blocks": drawn}


def block_table(sizes: Sizes, generator: Generator) -> Captures:
    """A third of the blocks, and the diagonal."""
    rows, columns = blocks_of(sizes.q_len, sizes), blocks_of(sizes.kv_len, sizes)
    return {"blocks": some(generator, sizes.heads, rows, columns, share=0.3) | torch.eye(rows, columns).bool()}


def selected(sizes: Sizes, generator: Generator) -> Captures:
    """Two blocks for each query."""
    shape = (sizes.batch, sizes.heads, sizes.q_len, 2)
    return {"selected": integers(generator, *shape, high=blocks_of(sizes.kv_len, sizes))}


def buckets(sizes: Sizes, generator: Generator) -> Captures:
    """Eight hash buckets."""
    return {
        name: integers(generator, sizes.batch, sizes.heads, length, high=8)
        for name, length in (("q_buckets", sizes.q_len), ("kv_buckets", sizes.kv_len))
    }


def gaze(sizes: Sizes, generator: Generator) -> Captures:
    """A point on the image for each sequence."""
    width = sizes.parameters["width"]
    height = -(-sizes.kv_len // width)
    return {"gaze": uniform(generator, sizes.batch, 2) * torch.tensor([width - 1.0, height - 1.0])}


def image_spans(sizes: Sizes, generator: Generator) -> Captures:
    """The text cut into as many spans as there are images, after some text that sees none."""
    images = -(-sizes.kv_len // sizes.parameters["tokens"])
    cuts = torch.linspace(sizes.q_len // 8, sizes.q_len, images + 1).long()
    return {"spans": torch.stack([cuts[:-1], cuts[1:]], dim=1)}


def image_ids(sizes: Sizes, generator: Generator) -> Captures:
    """Text and images in turn."""
    pieces = document_ids(sizes, generator)
    return {"image_ids": torch.where(pieces % 2 == 1, pieces // 2, -1)}


def with_slopes(example: Example) -> Example:
    """Another example's captures after ALiBi's slopes."""
    return lambda sizes, generator: slopes(sizes, generator) | example(sizes, generator)
