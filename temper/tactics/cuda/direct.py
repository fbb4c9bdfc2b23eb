"""Base class of GPU tactics with hand-written kernels: dense tensors, no fused epilogue, stages launched in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import indent

from temper.compile.triton import TritonSource
from temper.ir.dims import DimLike
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cuda.epilogue_triton import Parameter, epilogue_helpers
from temper.tactics.cuda.instructions import POINTER_TYPES
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.tiles import constants_text
from temper.tactics.epilogue import Epilogue
from temper.tactics.geometry import typical_count
from temper.tactics.plain import Plain


@dataclass(frozen=True)
class Stage:
    """One launch. body: statements over the pointers, `sizes` and tl.program_id(0). functions: text of those of its own
    that it calls, each with its decorator."""

    body: str
    grid: DimLike
    sizes: Mapping[str, DimLike] = field(default_factory=dict)
    warps: int = 4
    functions: str = ""


class Direct(Plain):
    """Base of tactics with one kernel per workload. Subclasses say what they decline and generate the kernel."""

    #: what an output element costs, about
    seconds = 1e-10

    def stages(self, w: Workload) -> tuple[Sequence[Parameter], Sequence[Stage], DimLike]:
        """The pointers of all launches, the launches, and the bytes of scratch they share."""
        raise NotImplementedError

    def level(self, w: Workload) -> str | None:
        return level_declines(w)

    def predict(self, w: Workload, params: Params) -> float:
        return 3e-6 + typical_count(w.outputs[0].type.shape) * self.seconds

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        pointers, stages, shared = self.stages(w)
        signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
        sources = []
        for k, stage in enumerate(stages):
            name = f"{entry}_{k}" if len(stages) > 1 else entry
            constants = constants_text(stage.sizes)
            text = (
                f'"""{w.op}."""\n\nimport triton\nimport triton.language as tl\n'
                f"{epilogue_helpers(_NOTHING, stage.functions + stage.body)}{stage.functions}"
                f"\n\n@triton.jit\ndef {name}({', '.join(n for n, _ in signature)}):\n"
                + indent(f"{constants}\n{stage.body.strip()}\n", "    ")
            )
            hints = frozenset(p.name for p in pointers)
            sources.append(TritonSource(text, name, signature, hints, stage.warps, 1))
        grids = [s.grid for s in stages]
        return TritonKernel(
            "\n\n".join(s.text for s in sources),
            tuple(s.entry for s in sources),
            tuple(p.ref for p in pointers),
            w.symbols,
            shared_workspace=shared,
            in_place=False,
            grid=grids[0],
            later=tuple(grids[1:]),
            triton=sources[0],
            then=tuple(sources[1:]),
        )


_NOTHING = Epilogue.identity("float32", 1)


def pointer(w: Workload, kind: str, i: int, name: str) -> Parameter:
    """The pointer to an input or an output."""
    slot = (w.inputs if kind == "input" else w.outputs)[i]
    assert slot is not None
    return Parameter(name, POINTER_TYPES[slot.type.dtype], (kind, i))


def scratch(name: str, kind: str) -> Parameter:
    """The pointer to the scratch that all blocks share."""
    ref: ArgRef = ("shared", 0)
    return Parameter(name, kind, ref)
