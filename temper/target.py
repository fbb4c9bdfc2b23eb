"""Build targets, a CPU's code level or a GPU: tactics, the device that tunes them, machine code in a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from temper.compile.cc import ISAS, link
from temper.compile.host import host_library
from temper.compile.triton import CUDA_ISAS
from temper.config import BuildConfig, knob
from temper.errors import ConfigError, DeviceError
from temper.plan.conflicts import Order
from temper.plan.cubins import to_archive
from temper.plan.format import Launch, Plan, Profile, SubProgram
from temper.runtime import machine
from temper.runtime.binding import Sized
from temper.runtime.cuda.driver import Gpu, bindings, runs_on
from temper.runtime.cuda.order import order_of
from temper.tactics.base import Tactic, Workload
from temper.tactics.cpu.sources import cpu_tactics
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.loads import FLOATS8, FLOATS8_ISAS
from temper.tactics.cuda.sources import cuda_tactics
from temper.tune.cpu import Cpu
from temper.tune.cuda import Cuda, from_bytes
from temper.tune.select import Choice, Device


class Target(Protocol):
    """One kind of machine to build for. name: as plans state it; isa: the code level."""

    @property
    def name(self) -> str: ...

    @property
    def isa(self) -> str: ...

    @property
    def needs(self) -> tuple[str, ...]:
        """CPU flags that the code requires."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What times depend on."""

    @property
    def cache_bytes(self) -> int:
        """The last-level cache."""

    def multiplies(self, dtype: str) -> bool:
        """Its arithmetic on this type is faster than on float32."""

    def threads(self, asked: int) -> int:
        """How many of the `asked` threads of the host share a kernel's work: what its times depend on."""

    @property
    def present(self) -> bool:
        """It is in this machine."""

    @property
    def widens(self) -> bool:
        """Its kernels take tensors that are stored narrower than float32 and convert what they load."""

    @property
    def alignment(self) -> int:
        """Bytes that dense tensors start at a multiple of."""

    def lacks(self, w: Workload) -> str | None:
        """What every kernel of a region would need that the chip does not have; None if nothing."""

    def tactics(self) -> tuple[Tactic, ...]: ...

    def device(self) -> Device: ...

    def kernels(self, choices: Mapping[str, Choice]) -> bytes:
        """The plan's machine code of the chosen kernels, by their code keys."""

    def host(self) -> bytes:
        """The library that walks a program's steps, where it is native code."""

    @property
    def order(self) -> Order | None:
        """What launches wait for; None where each waits for the one before it."""


class CpuTarget:
    """A code level of this machine's processor."""

    name = "cpu"
    alignment = 1
    widens = False
    present = True

    def __init__(self, isa: str) -> None:
        self.isa = isa

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(sorted(ISAS[self.isa].needs))

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return machine.fingerprint()

    @property
    def cache_bytes(self) -> int:
        return max(machine.cache_sizes().values(), default=1 << 25)

    def threads(self, asked: int) -> int:
        return asked

    def multiplies(self, dtype: str) -> bool:
        return dtype == "int8" or (dtype == "bfloat16" and "avx512_bf16" in ISAS[self.isa].needs)

    def lacks(self, w: Workload) -> str | None:
        return None

    def tactics(self) -> tuple[Tactic, ...]:
        return cpu_tactics()

    def device(self) -> Device:
        return Cpu()

    def kernels(self, choices: Mapping[str, Choice]) -> bytes:
        return link([choices[k].code for k in sorted(choices)]) if choices else b""

    def host(self) -> bytes:
        return host_library()

    @property
    def order(self) -> Order | None:
        return None


class CudaTarget:
    """A GPU of this machine, or (gpu None) a level of GPUs that none is here of."""

    name = "cuda"
    #: Triton reads 16 bytes at once where it is told that pointers allow it
    alignment = 16
    widens = True

    def __init__(self, gpu: Gpu | None, isa: str) -> None:
        self.gpu, self.isa = gpu, isa

    @property
    def present(self) -> bool:
        return self.gpu is not None

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"isa": self.isa} if self.gpu is None else self.gpu.fingerprint

    @property
    def cache_bytes(self) -> int:
        return 1 << 25 if self.gpu is None else self.gpu.cache

    def threads(self, asked: int) -> int:
        return 1  # the host launches kernels and computes nothing in them

    def multiplies(self, dtype: str) -> bool:
        return dtype in ("int8", "float16", "bfloat16") or (dtype in FLOATS8 and self.isa in FLOATS8_ISAS)

    def lacks(self, w: Workload) -> str | None:
        return level_declines(w)

    def tactics(self) -> tuple[Tactic, ...]:
        return cuda_tactics()

    def device(self) -> Device:
        return Cuda(self.gpu)

    def kernels(self, choices: Mapping[str, Choice]) -> bytes:
        return to_archive({name: f for c in choices.values() for name, f in from_bytes(c.code).items()})

    def host(self) -> bytes:
        return b""

    @property
    def order(self) -> Order | None:
        return graph_order


def graph_order(
    plan: Plan, unit: SubProgram | None, profile: Profile, env: Mapping[str, int], launches: Sequence[Launch]
) -> list[list[int]]:
    """For each of these launches of a program, at these sizes, the earlier ones that it waits for in a CUDA graph."""
    return order_of(Sized(plan, profile, env, unit), launches)


def best_isa(chosen: str = "") -> str:
    """The highest code level this machine can run, or the one `chosen`, or TEMPER_ISA, asks for. ConfigError if it
    cannot run that one."""
    flags = machine.cpu_flags()
    chosen = chosen or knob("TEMPER_ISA")
    if chosen:
        if chosen not in ISAS:
            raise ConfigError(f"there is no code level {chosen!r}; choose from {', '.join(ISAS)}")
        missing = ISAS[chosen].needs - flags
        if missing:
            raise ConfigError(f"this machine cannot run {chosen} code: it lacks {', '.join(sorted(missing))}")
        return chosen
    return next(name for name, isa in ISAS.items() if isa.needs <= flags)


def target_of(config: BuildConfig) -> Target:
    """The target that `config.device` names: "cpu", "cuda" (the first GPU), "cuda:1", or "cuda:sm_90" for a GPU that
    is not here. ConfigError for another; DeviceError if the GPU cannot be used.
    """
    kind, _, which = str(config.device).partition(":")
    if kind == "cpu" and not which:
        return CpuTarget(best_isa(config.isa))
    if kind != "cuda" or (which and not which.isdigit() and which not in CUDA_ISAS):
        raise ConfigError(
            f"there is no device {config.device!r}; choose cpu, cuda, cuda:N (the N-th GPU), or one of "
            f"{', '.join(f'cuda:{isa}' for isa in CUDA_ISAS)} to build without a GPU"
        )
    if config.isa:
        raise ConfigError(f"isa={config.isa!r} is a CPU's code level; name a GPU's as device='cuda:sm_90'")
    if which in CUDA_ISAS:
        if config.effort:
            raise ConfigError(
                f"kernels cannot be timed for {config.device} without the GPU: build with effort 0 (--no-timing)"
            )
        return CudaTarget(None, which)
    try:
        bindings()
    except DeviceError as e:
        raise DeviceError(f"{e}; to build for a GPU that is elsewhere: --device cuda:sm_90 --no-timing") from e
    gpu = Gpu(int(which or 0))
    levels = [isa for isa in CUDA_ISAS if runs_on(isa, gpu.isa)]
    if not levels:
        raise ConfigError(f"{gpu.name} is {gpu.isa}; GPU code is made for {', '.join(CUDA_ISAS)}")
    return CudaTarget(gpu, levels[-1])
