"""Everything that attncc knows of Triton's inside, in one file: what changes with Triton's versions changes here.

Seen to work with Triton 3.6 and 3.9. The stages of Triton's compiler are run one by one instead of by `triton.compile`,
which would also read and write Triton's own cache and, for its key, hash 400 MB of Triton's libraries in every process
(0.84 s with Triton 3.6 on 2 cores of an AMD EPYC, 2026-11).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from attncc.errors import InputError, InternalError

#: What a launch needs of the metadata that Triton's stages leave, and what holds where a version leaves none.
LAUNCH_FACTS = {
    "shared": 0,
    "num_warps": 4,
    "num_ctas": 1,
    "warp_size": 32,
    "global_scratch_size": 0,
    "global_scratch_align": 1,
    "profile_scratch_size": 0,
    "profile_scratch_align": 1,
    "launch_cooperative_grid": 0,
    "launch_pdl": 0,
}
#: After its arguments a kernel takes this many pointers: scratch memory of its own, and of a profiler.
HIDDEN_POINTERS = 2
TARGETS_HINT = "targets are named like sm_80, sm_90, sm_100 (NVIDIA) or gfx942 (AMD)"
DIVISIBILITY = [["tt.divisibility", 16]]
#: Versions of Triton whose Gluon our kernels are written for and tested with.
GLUON_VERSIONS = ("3.6",)
#: Options whose defaults change with Triton's versions: products and sums are fused, as in Triton until 3.9.
OPTIONS = {"enable_fp_fusion": True}

#: Reading a kernel's source is Python, for which threads take turns; one after the other they come sooner to what lets
#: others run, LLVM and ptxas. Triton changes the process's filters of warnings meanwhile, which two would mix up.
_READING = threading.Lock()


class StageError(Exception):
    """A stage of Triton's compiler failed on a kernel that it had read without complaint."""

    def __init__(self, stage: str) -> None:
        super().__init__(stage)
        self.stage = stage


@cache
def version() -> str | None:
    """The version of Triton, without importing it; None if it is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        # A Triton that has no metadata of its own, as some builds of PyTorch bring.
        import triton

        return str(triton.__version__)


def parse_target(name: str) -> tuple[str, int | str, int]:
    """Back end, architecture and warp size of a target. Raises InputError for a name that is none."""
    if found := re.fullmatch(r"sm_(\d{2,3})", name):
        if int(found[1]) < 80:
            raise InputError(f"{name} is too old: its tensor cores lack bfloat16", hint="sm_80 is the oldest target")
        return "cuda", int(found[1]), 32
    if re.fullmatch(r"gfx\d[0-9a-f]{2,3}", name):
        return "hip", name, 64 if name.startswith("gfx9") else 32
    raise InputError(f"{name!r} is no target that attncc knows", hint=TARGETS_HINT)


def binary_kind(target: str) -> str:
    """What the binary of a target is called: `cubin` or `hsaco`."""
    return {"cuda": "cubin", "hip": "hsaco"}[parse_target(target)[0]]


def gluon_refusal(found: str | None) -> str | None:
    """None if this version of Triton has a Gluon that our kernels are tested with, otherwise why not."""
    if found is None:
        return "Triton is not installed"
    if ".".join(found.split(".")[:2]) in GLUON_VERSIONS:
        return None
    return f"Triton {found} is installed, and Gluon kernels are tested with {' and '.join(GLUON_VERSIONS)}"


def interprets() -> bool:
    """Whether Triton's functions run in its interpreter, which is decided before Triton is imported."""
    import triton  # late: most of attncc runs without Triton

    return bool(triton.knobs.runtime.interpret)


def debugging_variables() -> list[str]:
    """The environment variables that change what Triton compiles, which are set; what they make is not for others."""
    # Late: only what compiles needs Triton.
    from triton._C.libtriton import get_cache_invalidating_env_vars

    return sorted(get_cache_invalidating_env_vars())


def compile_stages(
    function: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, object],
    divisible: Sequence[int],
    target: str,
    options: Mapping[str, object],
    gluon: bool,
) -> tuple[dict[str, str | bytes], dict[str, Any]]:
    """What each stage of Triton's compiler made of a function, by its extension, and the metadata they left.

    Raises StageError where a stage fails after the function was read; what is wrong with its text Triton's own way.
    """
    # Late: only what compiles needs Triton, which takes 0.2 s to import.
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget  # late, as above
    from triton.compiler.compiler import make_backend  # late, as above

    attributes = {(index,): DIVISIBILITY for index in divisible}
    source = _source_class(gluon)(function, dict(signature), dict(constants), attributes)
    backend = make_backend(GPUTarget(*parse_target(target)))
    chosen = backend.parse_options(OPTIONS | dict(options) | source.parse_options())
    if unknown := sorted(options.keys() - vars(chosen).keys()):
        raise InternalError(f"Triton {version()} has no options {unknown} for {target}")
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, chosen, source.language)
    metadata = {"target": backend.target, **vars(chosen)}
    functions, modules = backend.get_codegen_implementation(chosen), backend.get_module_map()
    with _READING:
        module = source.make_ir(backend.target, chosen, functions, modules, context)
    return _run_stages(stages, module, metadata), metadata


def _run_stages(stages: Mapping[str, Any], module: Any, metadata: dict[str, Any]) -> dict[str, str | bytes]:
    made: dict[str, str | bytes] = {}
    for extension, stage in stages.items():
        try:
            module = stage(module, metadata)
        except (OSError, MemoryError):  # of this machine, not of the kernel
            raise
        except Exception as error:
            raise StageError(extension) from error
        made[extension] = module if isinstance(module, bytes) else str(module)
    return made


def _source_class(gluon: bool) -> Any:
    # Late: only what compiles needs Triton.
    if gluon:
        from triton.experimental.gluon._runtime import GluonASTSource  # late, as above

        return GluonASTSource
    from triton.compiler import ASTSource  # late, as above

    return ASTSource


def locate(error: BaseException) -> list[tuple[str, int, int]]:
    """Where Triton found a mistake, callers first: the text of a function, and a line (from 1) and column in it."""
    places = []
    cause: BaseException | None = error
    while cause is not None:
        node: Any = getattr(cause, "node", None)
        text = getattr(cause, "src", None)
        if isinstance(text, str) and hasattr(node, "lineno"):
            places.append((text, int(node.lineno), int(node.col_offset)))
        cause = cause.__cause__
    return places
