"""What a call costs before it runs: work, bytes, the least that any kernel must move, and the time of a roofline.

Tiles are counted elsewhere and come in as values. Everything here is arithmetic on them and on the ceilings of a GPU,
which are its maker's figures: no measurement, and no kernel reaches all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from attncc.errors import InputError

#: Special functions (exponentials) that a multiprocessor makes in a cycle.
EXPONENTIALS: Final = 16
BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Machine:
    """The ceilings of a GPU: floating-point operations, bytes and cycles per second, dense and without sparsity.

    `on_chip` are the bytes of one multiprocessor that a kernel can hold: registers and shared memory.
    """

    name: str
    arch: str
    matrix_flops: float
    vector_flops: float
    bandwidth: float
    units: int
    clock: float
    on_chip: int

    @property
    def exponentials(self) -> float:
        """Exponentials per second."""
        return EXPONENTIALS * self.units * self.clock

    def flops(self, dtype: str) -> float:
        """Operations per second of products in this dtype: float32 runs on the ordinary units, in full precision."""
        return self.vector_flops if dtype == "float32" else self.matrix_flops


KIB: Final = 1024
MACHINES: Final[Mapping[str, Machine]] = {
    machine.name.lower(): machine
    for machine in (
        Machine("A100", "sm_80", 312e12, 19.5e12, 2.039e12, 108, 1.41e9, (256 + 163) * KIB),
        Machine("H100", "sm_90", 989.4e12, 66.9e12, 3.35e12, 132, 1.83e9, (256 + 227) * KIB),
        Machine("H200", "sm_90", 989.4e12, 66.9e12, 4.8e12, 132, 1.83e9, (256 + 227) * KIB),
        Machine("B200", "sm_100", 2250e12, 75e12, 8.0e12, 148, 1.85e9, (256 + 256 + 227) * KIB),
        Machine("MI300X", "gfx942", 1307.4e12, 163.4e12, 5.3e12, 304, 2.1e9, (512 + 64) * KIB),
    )
}


def machine_of(name: str) -> Machine:
    """The machine of this name. Raises InputError if there is none."""
    found = MACHINES.get(name.lower())
    if found is None:
        raise InputError(
            f"no ceilings are known for {name!r}", hint=f"one of {', '.join(m.name for m in MACHINES.values())}"
        )
    return found


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a call."""

    batch: int
    heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int
    dtype: str


@dataclass(frozen=True, slots=True)
class TileCounts:
    """Tiles over all batches and heads; a program owns one tile of queries of one head. `how` says how they were
    counted, exactly in either way; the longest program visits `longest` tiles."""

    tile_q: int
    tile_kv: int
    full: int
    masked: int
    skipped: int
    programs: int
    longest: int
    how: str

    @property
    def visited(self) -> int:
        """Tiles whose scores are computed."""
        return self.full + self.masked

    @property
    def total(self) -> int:
        """All tiles."""
        return self.visited + self.skipped


@dataclass(frozen=True, slots=True)
class Cost:
    """The forward pass of one call on one machine; times in seconds."""

    name: str
    shape: Shape
    machine: Machine
    tiles: TileCounts
    multiply_adds: int
    exponentials: int
    bytes_once: int
    bytes_most: int
    bytes_bound: float
    intensity: float
    times: Mapping[str, float]
    imbalance: float
    dense_time: float

    @property
    def time(self) -> float:
        """The time under the lowest ceiling."""
        return max(self.times.values())

    @property
    def limit(self) -> str:
        """The ceiling that decides."""
        return max(self.times, key=lambda name: self.times[name])


def cost_of(name: str, shape: Shape, machine: Machine, tiles: TileCounts) -> Cost:
    """The cost of a forward pass with these tiles."""
    size, once = BYTES[shape.dtype], _bytes_once(shape)
    pairs = tiles.visited * tiles.tile_q * tiles.tile_kv
    multiply_adds, exponentials = pairs * 2 * shape.head_dim, pairs + tiles.visited * tiles.tile_q
    keys_read = tiles.visited * tiles.tile_kv * 2 * shape.head_dim * size
    keys_once = 2 * shape.batch * shape.kv_heads * shape.kv_len * shape.head_dim * size
    held = machine.on_chip // size
    bound = max(float(once), size * pairs * shape.head_dim**2 / held) if held >= shape.head_dim**2 else float(once)
    most = once - keys_once + max(keys_once, keys_read)
    times = {
        "products": 2 * multiply_adds / machine.flops(shape.dtype),
        "exponentials": exponentials / machine.exponentials,
        "memory": once / machine.bandwidth,
    }
    return Cost(
        name, shape, machine, tiles, multiply_adds, exponentials, once, most, bound,
        2 * multiply_adds / once if once else 0.0, times,
        tiles.longest * tiles.programs / tiles.visited if tiles.visited else 1.0,
        _dense_time(shape, machine, tiles),
    )  # fmt: skip


def _bytes_once(shape: Shape) -> int:
    """Every tensor once: queries and outputs, the lse in float32, keys and values."""
    queries = shape.batch * shape.heads * shape.q_len
    keys = shape.batch * shape.kv_heads * shape.kv_len
    return 2 * (queries + keys) * shape.head_dim * BYTES[shape.dtype] + 4 * queries


def _dense_time(shape: Shape, machine: Machine, tiles: TileCounts) -> float:
    """A roofline of attention that visits every tile and reads a mask of one byte for each pair of one head."""
    pairs = tiles.total * tiles.tile_q * tiles.tile_kv
    mask = shape.q_len * shape.kv_len if tiles.full < tiles.total else 0
    return max(
        4 * pairs * shape.head_dim / machine.flops(shape.dtype),
        pairs / machine.exponentials,
        (_bytes_once(shape) + mask) / machine.bandwidth,
    )


def cost_dict(cost: Cost) -> dict[str, object]:
    """The cost for programs; times in seconds."""
    values = dataclasses.asdict(cost)
    values["tiles"] |= {"visited": cost.tiles.visited, "total": cost.tiles.total}
    values["machine"]["exponentials"] = cost.machine.exponentials
    return {**values, "time": cost.time, "limit": cost.limit}


def cost_text(cost: Cost) -> str:
    """The cost for people."""
    sections = (
        _head(cost),
        _tiles(cost),
        _work(cost),
        _memory(cost),
        _times(cost),
        _ceilings(cost.machine, cost.shape.dtype),
    )
    return "\n\n".join("\n".join(section) for section in sections)


def _head(cost: Cost) -> list[str]:
    s = cost.shape
    heads = f"{s.heads} heads" + (f" ({s.kv_heads} of keys)" if s.kv_heads != s.heads else "")
    lengths = f"{s.q_len:,} queries x {s.kv_len:,} keys"
    return [
        f"{cost.name}: one forward pass on {cost.machine.name}",
        f"  batch {s.batch}, {heads}, {lengths}, head size {s.head_dim}, {s.dtype}",
    ]


def _tiles(cost: Cost) -> list[str]:
    t = cost.tiles
    share = f" ({100 * t.visited / t.total:.2f} %)" if t.total else ""
    return [
        f"TILES of {t.tile_q} queries x {t.tile_kv} keys, {t.how}",
        f"  visited     {t.visited:,} of {t.total:,}{share}: {t.full:,} full, {t.masked:,} masked",
        f"  imbalance   the longest of {t.programs:,} programs visits {t.longest:,} tiles, "
        f"{cost.imbalance:.2f} times the mean",
    ]


def _work(cost: Cost) -> list[str]:
    return [
        "WORK, whole tiles",
        f"  multiply-adds   {cost.multiply_adds:,}",
        f"  exponentials    {cost.exponentials:,}",
    ]


def _memory(cost: Cost) -> list[str]:
    ridge = cost.machine.flops(cost.shape.dtype) / cost.machine.bandwidth
    return [
        "DEVICE MEMORY, in bytes",
        f"  each tensor once           {cost.bytes_once:,}",
        f"  keys read for every tile   {cost.bytes_most:,}   without any cache between the units and the memory",
        f"  least, by order            {cost.bytes_bound:,.0f}   N^2 d^2 / M over visited pairs, "
        f"M = {cost.machine.on_chip // KIB} KiB on a unit; no less than each tensor once",
        f"  intensity                  {cost.intensity:,.1f} operations a byte; "
        f"{ridge:,.1f} would keep products and memory equally busy",
    ]


def _times(cost: Cost) -> list[str]:
    rows = ["TIME under each ceiling, if nothing else cost anything"]
    rows += [
        f"  {name:<13} {_milliseconds(time)}{'   <- decides' if name == cost.limit else ''}"
        for name, time in cost.times.items()
    ]
    dense = cost.dense_time
    rows.append(
        f"  dense         {_milliseconds(dense)}   every tile, and a mask in memory where the variant hides pairs"
    )
    if not dense or cost.time >= dense:
        return [*rows, "  dense would be as fast: nothing worth skipping"]
    share = 100 * cost.time / dense
    return [
        *rows,
        f"  dense would be faster only if this kernel came to less than {share:.1f} % of a dense one's efficiency",
    ]


def _ceilings(machine: Machine, dtype: str) -> list[str]:
    return [
        f"CEILINGS of {machine.name} (its maker's figures; no kernel reaches them)",
        f"  {machine.flops(dtype) / 1e12:,.1f} TFLOP/s in {dtype}, {machine.bandwidth / 1e12:.2f} TB/s, "
        f"{machine.exponentials / 1e12:.2f} T exponentials/s",
        f"  ({EXPONENTIALS} exponentials a cycle on each of {machine.units} units at {machine.clock / 1e9:.2f} GHz)",
    ]


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:>10.4f} ms"
