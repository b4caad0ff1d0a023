"""A fingerprint changes with all that tracing could read, and with nothing else; captures are read in each call."""

from __future__ import annotations

import functools
import gc
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attncc.errors import InputError
from attncc.frontend import fingerprint, trace_functions
from tests.frontend.oracle import read, value

Function = Callable[..., Any]


def key(function: Function) -> Any:
    """The fingerprint of a score function, which must have one."""
    found = fingerprint(function, None)
    assert found is not None
    assert hash(found) == hash(fingerprint(function, None))
    return found


def biased(slopes: Tensor, window: int = 4, factor: float = 2.0) -> Function:
    """A closure over a tensor, a parameter and a constant."""

    def score_mod(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score * factor + slopes[h] + window * q_idx

    return score_mod


def test_new_closure_with_the_same_code_has_the_same_key() -> None:
    first, second = biased(torch.ones(4)), biased(torch.zeros(9), window=100)
    assert key(first) == key(second)
    traced = trace_functions(first, None)
    captures, parameters = read(traced, second, None)
    assert captures["slopes"].shape == (9,)
    assert parameters == {"window": 100}


def test_float_in_a_closure_is_a_part_of_the_key() -> None:
    assert key(biased(torch.ones(4))) != key(biased(torch.ones(4), factor=3.0))
    assert key(biased(torch.ones(4), factor=0.0)) != key(biased(torch.ones(4), factor=-0.0))
    assert key(biased(torch.ones(4), factor=float("nan"))) == key(biased(torch.ones(4), factor=float("nan")))


def test_dtype_and_rank_of_a_tensor_are_a_part_of_the_key_and_its_size_is_not() -> None:
    assert key(biased(torch.ones(4))) != key(biased(torch.ones(4).double()))

    def rows(table: Tensor) -> Function:
        return lambda score, b, h, q_idx, kv_idx: score + table[h]

    assert fingerprint(rows(torch.ones(4)), None) is not None


def test_kinds_of_numbers_differ() -> None:
    def times(number: Any) -> Function:
        return lambda score, b, h, q_idx, kv_idx: score * number

    keys = [key(times(number)) for number in (1, 1.0, True)]
    assert len(set(keys)) == 3
    assert key(times(1)) == key(times(7))


def test_number_whose_plain_value_was_read_is_a_part_of_the_key() -> None:
    def summed(count: int) -> Function:
        def score_mod(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
            for i in range(count):
                score = score + i * q_idx
            return score

        return score_mod

    assert key(summed(2)) != key(summed(3))
    assert key(summed(2)) == key(summed(2))
    assert len(trace_functions(summed(3), None).spec.parameters) == 0


def test_what_a_flag_hides_is_read_when_it_is_not_hidden() -> None:
    def chosen(flag: bool, count: int) -> Function:
        def score_mod(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
            if not flag:
                return score + count * q_idx
            return score + sum(range(count)) * q_idx

        return score_mod

    assert key(chosen(False, 2)) == key(chosen(False, 3))
    assert key(chosen(True, 2)) != key(chosen(True, 3))
    at = {"score": 0.0, "b": 0, "h": 0, "q_idx": 1, "kv_idx": 0}
    for flag, count, wanted in ((True, 4, 6), (True, 5, 10), (False, 5, 5), (True, 4, 6), (False, 4, 4)):
        function = chosen(flag, count)
        assert value(trace_functions(function, None), "score", at, (function, None)) == wanted


def test_size_that_was_read_is_a_part_of_the_key_and_other_sizes_are_not() -> None:
    def normed(table: Tensor) -> Function:
        return lambda score, b, h, q_idx, kv_idx: score + table[q_idx].norm()

    assert key(normed(torch.ones(10, 3))) == key(normed(torch.ones(99, 3)))
    assert key(normed(torch.ones(10, 3))) != key(normed(torch.ones(10, 4)))

    def counted(table: Tensor) -> Function:
        return lambda score, b, h, q_idx, kv_idx: score + table[h] / table.shape[0]

    assert key(counted(torch.ones(4))) != key(counted(torch.ones(5)))

    def derived(table: Tensor) -> Function:
        return lambda score, b, h, q_idx, kv_idx: score + (table * 2)[q_idx].sum()

    assert key(derived(torch.ones(4, 3))) != key(derived(torch.ones(4, 4)))


def test_two_names_of_one_tensor_differ_from_two_tensors() -> None:
    def both(first: Tensor, second: Tensor) -> Function:
        return lambda score, b, h, q_idx, kv_idx: score + first[h] + second[h]

    one, two = torch.ones(4), torch.zeros(4)
    assert key(both(one, one)) != key(both(one, two))
    assert len(trace_functions(both(one, one), None).spec.captures) == 1
    assert len(trace_functions(both(one, two), None).spec.captures) == 2


def in_module(text: str, **names: Any) -> types.ModuleType:
    """A module with this text, whose globals a test can change."""
    module = types.ModuleType("users_module")
    module.__dict__.update(torch=torch, **names)
    exec(compile(text, "users_module.py", "exec"), module.__dict__)
    return module


MODULE = """
class Config:
    reach = 2
    slope = 0.5

def helper(x):
    return x * 2

def score_mod(score, b, h, q_idx, kv_idx):
    return helper(score) * Config.slope + Config.reach * q_idx + WINDOW * kv_idx + settings.gain + TABLES[0][h]
"""


class Settings:
    """An object with a number."""

    def __init__(self, gain: float) -> None:
        self.gain = gain


def fresh() -> types.ModuleType:
    """A module of a user."""
    return in_module(MODULE, WINDOW=3, settings=Settings(1.5), TABLES=[torch.ones(4)])


def test_new_helper_changes_the_key() -> None:
    module = fresh()
    before = key(module.score_mod)
    module.helper = lambda x: x * 3
    assert key(module.score_mod) != before


def test_class_attribute_changes_the_key() -> None:
    module = fresh()
    before = key(module.score_mod)
    module.Config.slope = 0.25
    assert key(module.score_mod) != before


def test_attribute_of_an_object_changes_the_key() -> None:
    module = fresh()
    before = key(module.score_mod)
    module.settings.gain = 2.5
    assert key(module.score_mod) != before
    module.settings = Settings(1.5)
    assert key(module.score_mod) == before


def test_global_int_is_a_parameter_and_leaves_the_key() -> None:
    module = fresh()
    before = key(module.score_mod)
    traced = trace_functions(module.score_mod, None)
    module.WINDOW = 30
    assert key(module.score_mod) == before
    assert read(traced, module.score_mod, None)[1]["WINDOW"] == 30


def test_tensor_in_a_list_is_read_again() -> None:
    module = fresh()
    traced = trace_functions(module.score_mod, None)
    module.TABLES[0] = torch.full((4,), 7.0)
    assert read(traced, module.score_mod, None)[0]["TABLES0"].tolist() == [7.0] * 4
    module.TABLES.append(torch.ones(4))
    with pytest.raises(InputError, match="no longer"):
        traced.read(module.score_mod, None)


def test_name_that_appears_in_a_module_changes_the_key() -> None:
    module = in_module("def score_mod(score, b, h, q_idx, kv_idx):\n    return score * abs(-2)\n")
    before = key(module.score_mod)
    module.abs = lambda x: 5
    assert key(module.score_mod) != before


def test_default_and_keyword_default_are_read() -> None:
    def make(reach: int, slope: float) -> Function:
        def score_mod(
            score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, reach: int = reach, *, slope: float = slope
        ) -> Any:
            return score * slope + reach * q_idx

        return score_mod

    assert key(make(1, 0.5)) == key(make(2, 0.5))
    assert key(make(1, 0.5)) != key(make(1, 0.75))
    assert [each.name for each in trace_functions(make(1, 0.5), None).spec.parameters] == ["reach"]


def test_partial_arguments_are_read() -> None:
    def target(slopes: Any, score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, reach: int) -> Any:
        return score + slopes[h] * reach

    first = functools.partial(target, torch.ones(4), reach=1)
    second = functools.partial(target, torch.zeros(4), reach=2)
    assert key(first) == key(second)
    assert read(trace_functions(first, None), second, None)[1] == {"reach": 2}


class Bias(nn.Module):
    """A module with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(4))
        self.register_buffer("shift", torch.zeros(4))

    def score_mod(self, score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + self.bias[h] + self.shift[h]

    def forward(self, x: Any) -> Any:
        return x


def test_buffers_that_a_module_replaces_are_read_again() -> None:
    module = Bias()
    traced = trace_functions(module.score_mod, None)
    module.shift = torch.full((4,), 3.0)
    assert read(traced, module.score_mod, None)[0]["shift"].tolist() == [3.0] * 4
    with torch.no_grad():
        module.bias.add_(1)
    assert read(traced, module.score_mod, None)[0]["bias"] is module.bias
    before = key(module.score_mod)
    assert key(Bias().score_mod) == before
    assert key(module.double().score_mod) != before


def test_attribute_on_the_instance_hides_the_method_of_the_class() -> None:
    class Scaled:
        def factor(self) -> float:
            return 2.0

        def score_mod(self, score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
            return score * self.factor()

    scaled = Scaled()
    before = key(scaled.score_mod)
    scaled.factor = lambda: 3.0  # type: ignore[method-assign]
    assert key(scaled.score_mod) != before
    other = Scaled()
    assert key(other.score_mod) == before
    Scaled.factor = lambda self: 4.0  # type: ignore[method-assign]
    assert key(other.score_mod) != before


def test_attributes_of_functions_and_tensors_are_seen() -> None:
    text = "def score_mod(score, b, h, q_idx, kv_idx):\n    return score * helper.factor + TABLE.scale * TABLE[h]\n"
    module = in_module(text, TABLE=torch.ones(4), helper=lambda x: x)
    module.helper.factor, module.TABLE.scale = 2.0, 3.0
    keys = [key(module.score_mod)]
    module.helper.factor = 4.0
    keys.append(key(module.score_mod))
    module.TABLE.scale = 5.0
    keys.append(key(module.score_mod))
    assert len(set(keys)) == 3


def test_what_is_imported_inside_a_function_is_seen() -> None:
    sys.modules["users_settings"] = settings = in_module("GAIN = 2.0")
    try:
        text = (
            "def score_mod(score, b, h, q_idx, kv_idx):\n    from users_settings import GAIN\n    return score * GAIN\n"
        )
        module = in_module(text)
        before = key(module.score_mod)
        settings.GAIN = 3.0
        assert key(module.score_mod) != before
    finally:
        del sys.modules["users_settings"]


def test_declared_dims_are_a_part_of_the_key() -> None:
    first, second = biased(torch.ones(4)), biased(torch.ones(4))
    second.__attncc_captures__ = {"slopes": "float[heads]"}  # type: ignore[attr-defined]
    assert key(first) != key(second)
    assert trace_functions(second, None).spec.captures[0].dims == ("heads",)


OPAQUE = {
    "getattr": "def score_mod(score, b, h, q_idx, kv_idx):\n    return score * getattr(settings, 'ga' + 'in')\n",
    "globals": "def score_mod(score, b, h, q_idx, kv_idx):\n    return score * globals()['GAIN']\n",
    "eval": "def score_mod(score, b, h, q_idx, kv_idx):\n    return score * eval('GAIN')\n",
    "__dict__": "def score_mod(score, b, h, q_idx, kv_idx):\n    return score * settings.__dict__['gain']\n",
    "random": "import random\ndef score_mod(score, b, h, q_idx, kv_idx):\n    return score * random.random()\n",
    "choice": "from random import choice\ndef score_mod(score, b, h, q_idx, kv_idx):\n    return score * choice([1])\n",
    "attrgetter": "from operator import attrgetter\ndef score_mod(score, b, h, q_idx, kv_idx):\n"
    "    return score * attrgetter('gain')(settings)\n",
    "time": "import time\ndef score_mod(score, b, h, q_idx, kv_idx):\n    return score * time.time()\n",
    "generator": "def score_mod(score, b, h, q_idx, kv_idx):\n    return score * next(NUMBERS)\n",
    "global": "def score_mod(score, b, h, q_idx, kv_idx):\n    global GAIN\n    GAIN += 1\n    return score * GAIN\n",
    "array": "import numpy\nA = numpy.ones(3)\ndef score_mod(score, b, h, q_idx, kv_idx):\n    return score * A[0]\n",
    "torch": "def score_mod(score, b, h, q_idx, kv_idx):\n    return score * (2 + torch.is_grad_enabled())\n",
}


@pytest.mark.parametrize("reason", OPAQUE)
def test_what_cannot_be_told_has_no_fingerprint_but_traces(reason: str) -> None:
    module = in_module(OPAQUE[reason], GAIN=2.0, settings=Settings(2.0), NUMBERS=iter(range(1, 99)))
    assert fingerprint(module.score_mod, None) is None
    assert trace_functions(module.score_mod, None).spec.score is not None


def test_code_that_only_a_run_shows_has_no_fingerprint() -> None:
    class Meta(type):
        def __getitem__(cls, x: Any) -> Any:
            return x * 2

    class Doubled(metaclass=Meta):
        pass

    hidden = {"call": [lambda x: x * 2]}

    class Odd:
        def __init__(self) -> None:
            self.found = Doubled

        def __getattribute__(self, name: str) -> Any:
            return object.__getattribute__(self, "found") if name == "anything" else object.__getattribute__(self, name)

    odd = Odd()

    def score_mod(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return hidden["call"][0](odd.anything[score])

    function = score_mod
    found = fingerprint(function, None)
    before = trace_functions(function, None).spec
    hidden["call"][0] = lambda x: x * 5
    assert fingerprint(function, None) != found or found is None
    assert trace_functions(function, None).spec != before


def test_garbage_collection_during_a_trace_hides_nothing() -> None:
    class Dying:
        def __del__(self) -> None:
            seen.append("gone")

    def callback(phase: str, info: Any) -> None:
        seen.append(phase)

    seen: list[str] = []
    dying: Any = Dying()
    dying.itself = dying
    del dying
    thresholds = gc.get_threshold()
    gc.callbacks.append(callback)
    gc.set_threshold(1, 1, 1)
    try:
        assert key(lambda score, b, h, q_idx, kv_idx: score * 2 + list(map(str, range(99))).index("7")) is not None
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(callback)
    assert set(seen) == {"start", "stop", "gone"}


def test_changes_that_the_function_makes_happen_and_are_seen() -> None:
    calls: list[int] = []
    counter = {"n": 1}

    def score_mod(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        calls.append(1)
        counter["n"] += 1
        return score * counter["n"]

    at = {"score": 1.0, "b": 0, "h": 0, "q_idx": 0, "kv_idx": 0}
    trace_functions(score_mod, None)
    assert calls
    now = counter["n"]
    spec = trace_functions(score_mod, None).spec
    assert counter["n"] > now
    assert spec != trace_functions(score_mod, None).spec
    assert at


def test_memory_holds_no_tensor() -> None:
    def traced_once() -> weakref.ref[Tensor]:
        slopes = torch.ones(4)
        for each in (biased(slopes), lambda score, b, h, q_idx, kv_idx: score + (slopes * 2)[h]):
            assert fingerprint(each, None) is not None
            traces.append(trace_functions(each, None))
        return weakref.ref(slopes)

    traces: list[Any] = []
    alive = traced_once()
    gc.collect()
    assert len(traces) == 2
    assert alive() is None


def test_memory_holds_no_tensor_of_a_function_without_fingerprint() -> None:
    def traced_once() -> weakref.ref[Tensor]:
        holder = types.SimpleNamespace(slopes=torch.ones(4))

        def score_mod(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
            return score + vars(holder)["slopes"][h]

        assert fingerprint(score_mod, None) is None
        trace_functions(score_mod, None)
        return weakref.ref(holder.slopes)

    alive = traced_once()
    gc.collect()
    assert alive() is None


def test_fingerprint_takes_less_than_a_tenth_of_a_millisecond() -> None:
    function = biased(torch.ones(4))
    module = fresh()
    for each in (function, module.score_mod, Bias().score_mod):
        fingerprint(each, None)
        best = min(_timed(each) for _ in range(7))
        assert best < 100e-6, f"{best * 1e6:.0f} µs"


def _timed(function: Function) -> float:
    # The time of this thread: the machine may be busy with others.
    begun = time.thread_time()
    for _ in range(100):
        fingerprint(function, None)
    return (time.thread_time() - begun) / 100


def test_threads_trace_at_the_same_time() -> None:
    found: list[Any] = []

    def work(seed: int) -> None:
        for i in range(20):
            function = biased(torch.ones(4), window=seed, factor=float(i))
            traced = trace_functions(function, None)
            at = {"score": 1.0, "b": 0, "h": 0, "q_idx": 3, "kv_idx": 0}
            found.append(value(traced, "score", at, (function, None)) - (i + 1 + seed * 3))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 160
    assert set(found) == {0.0}


def test_divisor_that_becomes_zero_is_refused_when_it_is_read() -> None:
    def blocks(size: int) -> Function:
        return lambda b, h, q_idx, kv_idx: q_idx // (size - 1) == kv_idx % size

    traced = trace_functions(None, blocks(4))
    assert traced.read(None, blocks(5)).parameters == (5,)
    with pytest.raises(InputError, match="`size - 1` is 0"):
        traced.read(None, blocks(1))


def test_a_hundred_windows_are_one_trace() -> None:
    def windowed(window: int) -> Function:
        return lambda b, h, q_idx, kv_idx: (q_idx - kv_idx < window) & (q_idx >= kv_idx)

    keys = {fingerprint(None, windowed(window)) for window in range(1, 101)}
    assert len(keys) == 1
