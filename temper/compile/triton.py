"""Triton source to machine code for NVIDIA GPUs: no GPU, no driver, no torch and no C compiler needed.

Output is deterministic: no paths, line information or times in it, and no floating-point contraction unless asked for.
Triton's settings are per process, so one compile runs at a time in a process; use worker processes for several.
"""

from __future__ import annotations

import ast
import linecache
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from typing import Any

from temper.compile import triton_stages
from temper.compile.cubin import CubinKernel, read_cubin
from temper.errors import BuildError

#: Levels a cubin can be built for. A cubin for sm_80 also runs on later chips of the same major number; from sm_90 on
#: Triton uses instructions of exactly that chip.
CUDA_ISAS = ("sm_80", "sm_89", "sm_90", "sm_100")

#: From this level on a kernel may be started while the one before it ends (programmatic dependent launch).
_WAITING = 90
_WAIT = "tl.extra.cuda.gdc_wait()"

#: Bytes of a parameter by its type in a signature; pointers start with "*".
_SIZES = {"i32": 4, "i64": 8, "fp32": 4}


@dataclass(frozen=True)
class TritonSource:
    """A kernel before it is compiled.

    text: a Python module that imports triton and triton.language as tl and defines `entry` with @triton.jit.
    signature: (parameter, type) in order; types are Triton's: "*fp16", "*i8", "i32" ...
    aligned: pointer parameters whose address is always a multiple of 16 bytes.
    stages: depth of the software pipeline.
    fuse_multiply_add: let the compiler contract products and sums.
    scratch: bytes of global memory that each block may use for descriptors it makes (`tl.make_tensor_descriptor`);
        launches find them at the last pointer parameter.
    near: what the pipeline copies to shared memory stays in the processor's own cache, for loads of the same bytes.
    late: on sm_90, loops of products of integers wait for the sums of the step before, as those of floats do.
    chained: on sm_90, products that follow each other are waited for once.
    registers: the most that a thread may have, so that more blocks share a processor; 0: as many as it asks for.
    """

    text: str
    entry: str
    signature: tuple[tuple[str, str], ...]
    aligned: frozenset[str] = frozenset()
    warps: int = 4
    stages: int = 3
    fuse_multiply_add: bool = False
    scratch: int = 0
    near: bool = False
    late: bool = field(default=False, repr=False)
    chained: bool = field(default=False, repr=False)
    registers: int = field(default=0, repr=False)


@dataclass(frozen=True)
class Cubin:
    """Machine code and what a launch needs.

    threads: per block, in x.
    shared: bytes of dynamic shared memory (above 48 KiB, raise the function's limit first).
    scratch: trailing 8-byte pointer parameters after those of the signature; pass null.
    clusters: blocks per cluster.
    frame: bytes of local memory a thread uses: spilled registers, or the array sin and cos need for large arguments.
    waits: it waits itself for the kernel before it, and so may be started before that one has ended.
    scratch_bytes: of global memory per block behind the first of the scratch pointers, which then is the signature's
        last pointer.
    """

    data: bytes
    entry: str
    isa: str
    signature: tuple[tuple[str, str], ...]
    threads: int
    shared: int
    scratch: int
    clusters: int
    registers: int
    frame: int
    waits: bool = False
    scratch_bytes: int = 0


@cache
def triton_version() -> str:
    """Name and version of the compiler; part of every cache key. BuildError if it is not installed."""
    try:
        return f"triton {metadata.version('triton')}"
    except metadata.PackageNotFoundError:
        raise BuildError("building for a GPU needs the 'triton' package: pip install 'temper-rt[cuda]'") from None


def compile_cubin(source: TritonSource, isa: str) -> Cubin:
    """Machine code of one kernel for a level such as "sm_90". BuildError carries the compiler's diagnostics."""
    if isa not in CUDA_ISAS:
        raise BuildError(f"no such GPU level: {isa}; known are {', '.join(CUDA_ISAS)}")
    triton_version()
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.errors import TritonError

    if knobs.runtime.interpret:
        raise BuildError("TRITON_INTERPRET is set: Triton then interprets kernels and cannot compile them; unset it")
    waits = int(isa.removeprefix("sm_")) >= _WAITING
    if waits:
        source = replace(source, text=waiting(source))
    function = load_kernel(source)
    names = [name for name, _ in source.signature]
    hints = {(names.index(name),): [["tt.divisibility", 16]] for name in source.aligned}
    with ExitStack() as scopes:
        folder = scopes.enter_context(tempfile.TemporaryDirectory(prefix="temper-triton-"))
        scopes.enter_context(knobs.cache.scope())
        scopes.enter_context(knobs.compilation.scope())
        knobs.cache.dir = folder
        knobs.compilation.disable_line_info = True
        late, chained = (asked and isa == "sm_90" for asked in (source.late, source.chained))
        if source.near or late or chained:
            scopes.enter_context(knobs.runtime.scope())
            knobs.runtime.add_stages_inspection_hook = triton_stages.hook(source.near, late, chained)
        try:
            done = triton.compile(
                ASTSource(fn=function, signature=dict(source.signature), constexprs={}, attrs=hints),
                target=GPUTarget("cuda", int(isa.removeprefix("sm_")), 32),
                options={
                    "num_warps": source.warps,
                    "num_stages": source.stages,
                    "enable_fp_fusion": source.fuse_multiply_add,
                    **({"maxnreg": source.registers} if source.registers else {}),
                },
            )
        except (TritonError, RuntimeError) as e:
            raise BuildError(f"Triton could not compile {source.entry} for {isa}: {e}") from e
        return replace(_checked(source, isa, done.asm["cubin"], done.metadata), waits=waits)


def waiting(source: TritonSource) -> str:
    """The text with a wait for the kernel before as the first thing the entry does (griddepcontrol.wait in PTX).

    A kernel may have one of its own instead, such as after it has loaded weights: all that other kernels write must
    come after it.
    """
    if _WAIT in source.text:
        return source.text
    tree = ast.parse(source.text)
    entry = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == source.entry)
    first = next(s for s in entry.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)))
    lines = source.text.splitlines(keepends=True)
    lines.insert(first.lineno - 1, " " * first.col_offset + f"{_WAIT}\n")
    return "".join(lines)


def load_kernel(source: TritonSource) -> Any:
    """The function object that `@triton.jit` made of `source.entry`.

    Triton reads a function's text through linecache: it is entered there under a name of its own while the module runs.
    """
    name = f"<temper {source.entry}>"
    linecache.cache[name] = (len(source.text), None, source.text.splitlines(keepends=True), name)
    try:
        module: dict[str, Any] = {"__name__": source.entry}
        exec(compile(source.text, name, "exec"), module)
    finally:
        del linecache.cache[name]
    return module[source.entry]


def _checked(source: TritonSource, isa: str, data: bytes, meta: Any) -> Cubin:
    """The result, with facts read from the machine code, checked to take the parameters the signature says."""
    kernel: CubinKernel | None = next((k for k in read_cubin(data) if k.name == meta.name), None)
    if kernel is None:
        raise BuildError(f"the cubin of {source.entry} for {isa} has no kernel named {meta.name}")
    want = tuple(8 if kind.startswith("*") else _SIZES[kind] for _, kind in source.signature)
    rest = kernel.params[len(want) :]
    if kernel.params[: len(want)] != want or any(size != 8 for size in rest):
        raise BuildError(
            f"{source.entry} for {isa} takes parameters of {kernel.params} bytes, its signature says {want}"
        )
    scratch = getattr(meta, "global_scratch_size", 0)
    if scratch > source.scratch or getattr(meta, "profile_scratch_size", 0):
        raise BuildError(
            f"{source.entry} for {isa} wants {scratch} bytes of scratch in global memory for each block, "
            f"launches provide {source.scratch}"
        )
    return Cubin(
        data,
        meta.name,
        isa,
        source.signature,
        meta.num_warps * 32,
        meta.shared,
        len(rest),
        getattr(meta, "num_ctas", 1),
        kernel.registers,
        kernel.frame,
        scratch_bytes=scratch,
    )
