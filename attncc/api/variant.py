"""`Variant`: what a user holds. It checks tensors, finds the program, and calls the back end."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from attncc.api.compiler import install
from attncc.api.graph import attend_in_graph, is_followed, meaning_now
from attncc.api.inputs import check_inputs, kind_of
from attncc.api.lowering import Call, lowered, make_call
from attncc.api.options import Options, check_options
from attncc.api.pickling import frozen, travels
from attncc.api.program import Function, Program, Reading, arranged, program_of, read_functions
from attncc.api.values import check_names
from attncc.api.warm import attend, options_of
from attncc.errors import InputError
from attncc.ir import AttentionSpec, print_spec

if TYPE_CHECKING:  # a call loads no reports
    from attncc.report.cost import Cost, Machine, Shape
    from attncc.report.explain import Explanation
    from attncc.report.picture import Picture

install()


class Variant:
    """An attention variant, ready to be called: `variant(q, k, v)`.

    Made by `attncc.compile` from Python functions, which it keeps and reads again in each call, or by `attncc.load`
    from text, whose captured tensors are passed by name. It holds no tensors of its own, can be called from several
    threads, pickled and copied. A pickled Variant of closures or lambdas takes along what they capture at that moment.
    """

    def __init__(
        self,
        spec: object,
        *,
        score_mod: Function | None = None,
        mask_mod: Function | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        """A variant of a spec; with functions it is they that count, and `values` replace what they capture."""
        if not isinstance(spec, AttentionSpec):
            hint = "attncc.compile takes functions, attncc.load a path, attncc.loads a text"
            raise InputError(f"a Variant is made from an AttentionSpec, not from {kind_of(spec)}", hint=hint)
        check_names(spec, values or {})
        self._name = spec.name
        self._functions = (score_mod, mask_mod)
        self._values = dict(values or {})
        self._program: Program | None = None if self._is_python else program_of(arranged(spec))
        self._meaning = meaning_now(self._read)

    @property
    def _is_python(self) -> bool:
        return self._functions != (None, None)

    @property
    def score_mod(self) -> Function | None:
        """The score function it was compiled from, if any."""
        return self._functions[0]

    @property
    def mask_mod(self) -> Function | None:
        """The mask function it was compiled from, if any."""
        return self._functions[1]

    @property
    def name(self) -> str:
        """The name of the variant, as in its text."""
        return self._name

    @property
    def spec(self) -> AttentionSpec:
        """What the variant means now."""
        return self._read().spec

    @property
    def text(self) -> str:
        """The variant as `.attn` text."""
        return print_spec(self.spec)

    def __repr__(self) -> str:
        return f"<Variant {self.name}>"

    def bind(self, **values: Any) -> Variant:
        """The same variant with these captured tensors and parameters as its defaults."""
        check_names(self.spec, values)
        return Variant(self.spec, score_mod=self.score_mod, mask_mod=self.mask_mod, values={**self._values, **values})

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = ...,
        return_lse: Literal[False] = ...,
        backend: str = ...,
        block_m: int | None = ...,
        block_n: int | None = ...,
        deterministic: bool | None = ...,
        check_bounds: bool | None = ...,
        refine: bool | None = ...,
        **captures_and_params: Any,
    ) -> Tensor: ...

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = ...,
        return_lse: Literal[True],
        backend: str = ...,
        block_m: int | None = ...,
        block_n: int | None = ...,
        deterministic: bool | None = ...,
        check_bounds: bool | None = ...,
        refine: bool | None = ...,
        **captures_and_params: Any,
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = ...,
        return_lse: bool,
        backend: str = ...,
        block_m: int | None = ...,
        block_n: int | None = ...,
        deterministic: bool | None = ...,
        check_bounds: bool | None = ...,
        refine: bool | None = ...,
        **captures_and_params: Any,
    ) -> Tensor | tuple[Tensor, Tensor]: ...

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        return_lse: bool = False,
        backend: str = "auto",
        block_m: int | None = None,
        block_n: int | None = None,
        deterministic: bool | None = None,
        check_bounds: bool | None = None,
        refine: bool | None = None,
        **captures_and_params: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """softmax(score) over the visible pairs, times v; with `return_lse` also the log of the softmax's sums.

        Shapes: q [B, Hq, Lq, D], k [B, Hkv, Lkv, D], v [B, Hkv, Lkv, Dv]; out [B, Hq, Lq, Dv], lse [B, Hq, Lq], base e.
        Captured tensors and parameters are given by name. Raises InputError or UnsupportedError before anything runs.
        """
        options = options_of(backend, block_m, block_n, deterministic, check_bounds, refine)
        if torch.compiler.is_dynamo_compiling() and self._is_python and is_followed():
            given = {**self._values, **captures_and_params}
            text, names = self._meaning() if given else (None, ())
            if len(given) == len(names) and all(name in given for name in names):  # all or none: see meaning_now
                out, lse, _ = attend_in_graph(
                    *self._functions, q, k, v, scale, options, name=self._name, text=text, given=given
                )
                return (out, lse) if return_lse else out
        reads = self._is_python and not captures_and_params and not self._values
        functions = (*self._functions, self._name) if reads else None
        return attend(self._read, q, k, v, scale, options, captures_and_params, return_lse, functions)

    def source(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, **given: Any) -> str:
        """The generated code of this call, forward and backward; takes the arguments of a call."""
        from attncc.api.running import running  # late: a call shows no sources

        options, values = _split(given)
        call = self._call(q, k, v, scale, options, values)
        found = lowered(call)
        texts = [each.text for each in running(call, found)]
        texts = texts or [source.text for source in (found.forward, found.backward) if source is not None]
        return "\n\n".join(text.rstrip("\n") for text in texts) + "\n"

    def explain(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, **given: Any) -> Explanation:
        """What is skipped in this call and why, which schedule runs and why; takes the arguments of a call."""
        from attncc.api.explanation import explain_call  # late: a call loads no reports

        options, values = _split(given)
        return explain_call(self._call(q, k, v, scale, options, values))

    def plot(self, q_len: int, kv_len: int, path: str | Path, **given: Any) -> Path:
        """Draw the mask and its tiles to a .png or .svg file; takes the arguments of `picture`."""
        from attncc.report.plot import save  # late: matplotlib takes longer to import than the rest of attncc

        return save(self.picture(q_len, kv_len, **given), path)

    def picture(
        self,
        q_len: int,
        kv_len: int,
        *,
        heads: int | None = None,
        batch: int = 0,
        block_m: int | None = None,
        block_n: int | None = None,
        **captures_and_params: Any,
    ) -> Picture:
        """The mask and its tiles for these lengths, to be drawn; `batch` is the one to draw, where they differ."""
        from attncc.api.pictures import picture_of  # late: a call loads no reports

        options = check_options("auto", block_m, block_n, None, None)
        return picture_of(self._read(captures_and_params), (q_len, kv_len), heads, batch, options)

    def cost(
        self, shape: Shape, machine: Machine, *, block_m: int | None = None, block_n: int | None = None, **given: Any
    ) -> Cost:
        """What a forward pass of these sizes costs on a machine of `attncc.report.cost.MACHINES`, before it runs."""
        from attncc.api.cost import cost_of_variant  # late: a call loads no reports

        options = check_options("auto", block_m, block_n, None, None)
        return cost_of_variant(self._read(given), shape, machine, options.block_m, options.block_n)

    def _read(self, given: Mapping[str, Any] | None = None, device: torch.device | None = None) -> Reading:
        """The program and the values of this moment; what a call gives comes first."""
        if self._program is None:
            reading = read_functions(*self._functions, self._name, device)
        else:
            reading = Reading(self._program, {}, {})
        return reading.with_values({**self._values, **(given or {})})

    def _call(self, q: object, k: object, v: object, scale: object, options: Options, given: Mapping[str, Any]) -> Call:
        inputs = check_inputs(q, k, v, scale)
        return make_call(self._read(given, inputs.q.device), inputs, options)

    def __reduce__(self) -> tuple[Any, ...]:
        if all(travels(function) for function in self._functions):
            return _restore, (self.spec, *self._functions, self._values)
        reading = self._read()
        captures = {name: frozen(value) for name, value in reading.captures.items()}
        return _restore, (reading.program.spec, None, None, {**captures, **reading.parameters})

    def __deepcopy__(self, memo: dict[int, Any]) -> Variant:
        score_mod, mask_mod = copy.deepcopy(self._functions, memo)
        return _restore(self.spec, score_mod, mask_mod, copy.deepcopy(self._values, memo))

    def __copy__(self) -> Variant:
        return _restore(self.spec, *self._functions, dict(self._values))


def _restore(
    spec: AttentionSpec, score_mod: Function | None, mask_mod: Function | None, values: dict[str, Any]
) -> Variant:
    return Variant(spec, score_mod=score_mod, mask_mod=mask_mod, values=values)


def _split(given: dict[str, Any]) -> tuple[Options, dict[str, Any]]:
    """The options of a call among its keywords, and the rest, which are captured tensors and parameters."""
    names = ("backend", "block_m", "block_n", "deterministic", "check_bounds", "refine")
    values = {name: value for name, value in given.items() if name not in names and name != "return_lse"}
    chosen = {"backend": "auto", **{name: given[name] for name in names if name in given}}
    return check_options(**{name: chosen.get(name) for name in names}), values
