"""Products of a warpgroup: they read shared memory and write their result at any time until they are awaited."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.gluon.machine import Fault, Partition, current, here
from tests.gluon.memory import Access, Shared
from tests.gluon.values import Array, Dtype, Flaw, Tensor, check_shape


@dataclass(eq=False)
class Product:
    """A product under way, or done; `flaw` if its operands were undefined."""

    values: Array
    dtype: Dtype
    where: str
    flaw: Flaw | None = None
    reads: list[Access] = field(default_factory=list)
    done: bool = False

    def result(self) -> Tensor:
        """What a wait returns: to be looked at only if the product is done."""
        if self.done:
            return Tensor(self.values, self.dtype, self.flaw)
        return Tensor(self.values, self.dtype, Flaw("unfinished", f"the product started {self.where}", self))


@dataclass(frozen=True)
class Accumulator:
    """What an asynchronous product returns; only a wait or another product takes it."""

    product: Product

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.product.values.shape)

    def __getattr__(self, name: str) -> Any:
        raise Fault("unfinished", f"the product started {self.product.where} is used before it was awaited {here()}")


def _forbid(name: str) -> None:
    setattr(Accumulator, name, lambda self, *_: self.__getattr__(name))


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "neg", "getitem", "lt", "gt", "le", "ge"):
    _forbid(f"__{_name}__")


def warpgroup_mma(
    a: Shared | Tensor,
    b: Shared,
    acc: Tensor | Accumulator,
    *,
    use_acc: Any = True,
    precision: object = None,
    max_num_imprecise_acc: object = None,
    is_async: bool = False,
) -> Tensor | Accumulator:
    """a @ b, on top of `acc` if `use_acc`; where either operand is Shared, it must stay as it is until the wait."""
    me = current()
    me.machine.pause()
    _check_operands(a, b, acc)
    product = Product(np.zeros(()), acc.product.dtype if isinstance(acc, Accumulator) else acc.dtype, here())
    left, right = (_operand(operand, product, me) for operand in (a, b))
    product.values = np.matmul(left, right, dtype=np.float32)
    if bool(use_acc):
        product.values = product.values + _accumulated(acc, product)
    me.products.append(product)
    if is_async:
        return Accumulator(product)
    return warpgroup_mma_wait(0, deps=[Accumulator(product)])  # type: ignore[return-value]  # one value for one dep


def _check_operands(a: Any, b: Any, acc: Tensor | Accumulator) -> None:
    if not isinstance(b, Shared) or not isinstance(a, Shared | Tensor):
        raise Fault("type", f"a product needs its right operand in shared memory {here()}")
    if a.dtype is not b.dtype:
        raise Fault("type", f"a product of {a.dtype.name} and {b.dtype.name} {here()}")
    (rows, inner), (depth, columns) = a.shape, b.shape
    check_shape((inner,), (depth,), "the operands of a product")
    check_shape(acc.shape, (rows, columns), "the accumulator of a product")


def _operand(operand: Shared | Tensor, product: Product, me: Partition) -> Array:
    if isinstance(operand, Tensor):
        return operand.values
    product.flaw = product.flaw or operand.read("product", asynchronous=True)
    access = Access(operand.values, "read", me, f"a product that reads {operand.name}", product.where)
    product.reads.append(operand.allocation.note(access))
    return operand.values


def _accumulated(acc: Tensor | Accumulator, product: Product) -> Array:
    before = acc.product if isinstance(acc, Accumulator) else acc.flaw.product if acc.flaw else None
    if before is not None:
        product.flaw = product.flaw or before.flaw
        return before.values
    assert isinstance(acc, Tensor)
    return acc.values


def warpgroup_mma_wait(num_outstanding: int = 0, deps: Any = None) -> Tensor | tuple[Tensor, ...]:
    """Until at most `num_outstanding` products of this partition are under way; the deps as tensors."""
    if deps is None:
        raise Fault("type", f"warpgroup_mma_wait without deps {here()}")
    me = current()
    me.machine.pause()
    due = me.products[: max(len(me.products) - num_outstanding, 0)]
    me.products = me.products[len(due) :]
    for product in due:
        product.done = True
        for access in product.reads:
            access.time = me.now
    results = tuple(_awaited(dep) for dep in deps)
    return results[0] if len(results) == 1 else results


def _awaited(dep: Tensor | Accumulator) -> Tensor:
    if isinstance(dep, Accumulator):
        return dep.product.result()
    return dep.flaw.product.result() if dep.flaw and dep.flaw.product else dep


def warpgroup_mma_init(value: Tensor) -> Accumulator:
    """A tensor as an accumulator of products to come."""
    return Accumulator(Product(value.values, value.dtype, here(), done=True))
