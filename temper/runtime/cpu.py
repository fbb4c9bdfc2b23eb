"""Machine code in memory: shared objects loaded from bytes, single kernel calls, and the thread pool's contexts."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import threading
from _ctypes import dlclose
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from temper.errors import PlanError, TemperError

_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)


def _unique_alias(fd: int) -> str:
    """A spelling of /proc/self/fd/N used once: dlopen returns the older library for a path it knows, and N is
    reused.
    """
    bits = int.from_bytes(os.urandom(8), "little")
    return "/proc/self/fd" + "".join("/." if bits >> i & 1 else "//" for i in range(64)) + f"/{fd}"


def _open(code: bytes | memoryview, mode: int) -> ctypes.CDLL:
    try:
        fd = os.memfd_create("temper", os.MFD_CLOEXEC)
    except (OSError, AttributeError):  # no memfd in this kernel or sandbox
        return _open_file(code, mode)
    try:
        with open(fd, "wb", closefd=False) as f:
            f.write(code)
        return ctypes.CDLL(_unique_alias(fd), mode=mode)
    except OSError:  # executable memfds may be forbidden (vm.memfd_noexec)
        return _open_file(code, mode)
    finally:
        os.close(fd)


def _open_file(code: bytes | memoryview, mode: int) -> ctypes.CDLL:
    handle, path = tempfile.mkstemp(prefix="temper-", suffix=".so")
    try:
        with open(handle, "wb") as f:
            f.write(code)
        return ctypes.CDLL(path, mode=mode)
    finally:
        os.unlink(path)


class Library:
    """A shared object loaded from bytes; unloaded by `close` or when collected, after which its functions must not be
    called.
    """

    def __init__(self, code: bytes | memoryview, *, forever: bool = False) -> None:
        """forever: never unload, even at exit. PlanError with the loader's message if `code` cannot be loaded on this
        machine.
        """
        self._open = False
        try:
            self._dll = _open(code, os.RTLD_NOW | os.RTLD_LOCAL | (os.RTLD_NODELETE if forever else 0))
        except OSError as e:
            raise PlanError(f"machine code cannot be loaded: {e}; build the plan anew on this machine") from e
        self._open = True

    def function(self, name: str) -> int:
        """Address of an exported function. PlanError if there is none of that name."""
        try:
            return ctypes.cast(getattr(self._dll, name), ctypes.c_void_p).value or 0
        except AttributeError as e:
            raise PlanError(f"the plan's machine code has no function {name}; build the plan anew") from e

    def close(self) -> None:
        if self._open:
            self._open = False
            dlclose(self._dll._handle)

    def __del__(self) -> None:
        if not sys.is_finalizing():  # daemon threads may still be inside
            self.close()


def call(function: int, pointers: Sequence[int], symbols: Sequence[int] = (), part: int = 0, parts: int = 1) -> None:
    """Call one kernel entry (address from `Library.function`) with operand addresses and run-time dimensions; no
    GIL.
    """
    p = (ctypes.c_void_p * max(1, len(pointers)))(*pointers)
    v = (ctypes.c_int64 * max(1, len(symbols)))(*symbols)
    _KERNEL(function)(ctypes.addressof(p), ctypes.addressof(v), part, parts)


class _Launch(ctypes.Structure):
    _fields_ = [
        ("entry", ctypes.c_void_p),
        ("parts", ctypes.c_int32),
        ("barrier", ctypes.c_int32),
        ("refs", ctypes.c_int32),
        ("values", ctypes.c_int32),
    ]


class _Ref(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("index", ctypes.c_int32), ("value", ctypes.c_int64)]


#: Kinds of a resolved argument: (ADDRESS, 0, address), (BINDING, index, bytes into it), (WORKSPACE, 0, bytes into it).
ADDRESS, BINDING, WORKSPACE = range(3)
Argument = tuple[int, int, int]


@dataclass(frozen=True)
class Call:
    """One kernel call with its arguments resolved. function: address; values: run-time dimensions."""

    function: int
    arguments: tuple[Argument, ...]
    values: tuple[int, ...] = ()
    parts: int = 1
    barrier: bool = True


class Host:
    """The run-time library (temper/compile/host/host.h) with its process-wide thread pool."""

    # One per interface version and process: two libraries would be two pools fighting for the same cores.
    _loaded: ClassVar[dict[int, Host]] = {}
    _guard: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def get(cls, code: bytes | memoryview, abi: int) -> Host:
        """The process's library of interface version `abi`, loaded from `code` the first time."""
        with cls._guard:
            if abi not in cls._loaded:
                cls._loaded[abi] = cls(code, abi)
            return cls._loaded[abi]

    def __init__(self, code: bytes | memoryview, abi: int) -> None:
        self._library = Library(code, forever=True)  # pool threads run its code until the process ends

        def prototype(name: str, result: Any, *arguments: Any) -> Any:
            return ctypes.CFUNCTYPE(result, *arguments)(self._library.function(name))

        p, i32, i64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
        if (found := prototype("temper_abi", i32)()) != abi:
            raise PlanError(
                f"the plan's run-time library has interface {found}, its manifest says {abi}; build the plan anew"
            )
        self.run = prototype("temper_run", i32, p, p)
        self.profile = prototype("temper_profile", i32, p, p, p)
        self.create = prototype("temper_create", p, p, i64, p, p, i32, i32, p, i64)
        self.destroy = prototype("temper_destroy", None, p)
        self.set_spin = prototype("temper_set_spin", None, i64)


class NativeContext:
    """A list of kernel calls ready to run on the pool; frees itself. Keeps `owners` (code, memory it points into)
    alive.
    """

    def __init__(
        self,
        host: Host,
        calls: Sequence[Call],
        bindings: int,
        threads: int,
        workspace: int = 0,
        stride: int = 0,
        owners: tuple[object, ...] = (),
    ) -> None:
        """bindings: number of addresses `run` receives. workspace: scratch address, `stride` bytes per thread."""
        self._owners = owners
        self._destroy = host.destroy
        self.handle: int = 0
        self.length = len(calls)
        launches = (_Launch * max(1, len(calls)))(
            *[_Launch(c.function, c.parts, c.barrier, len(c.arguments), len(c.values)) for c in calls]
        )
        flat = [_Ref(*a) for c in calls for a in c.arguments]
        numbers = [v for c in calls for v in c.values]
        refs = (_Ref * max(1, len(flat)))(*flat)
        values = (ctypes.c_int64 * max(1, len(numbers)))(*numbers)
        self.handle = host.create(launches, len(calls), refs, values, bindings, threads, workspace or None, stride) or 0
        if not self.handle:
            raise TemperError(
                "the run-time library could not make a context: out of memory, or a launch without function or parts"
            )
        self._run, self._profile = host.run, host.profile

    def run(self, bindings: int) -> None:
        """Run everything; bindings: address of an array of binding addresses."""
        if self._run(self.handle, bindings):
            raise TemperError(
                "this context is running in another thread; make one context per thread with engine.context()"
            )

    def profile(self, bindings: int) -> list[float]:
        """As `run`; seconds of every call, measured with a barrier after each."""
        seconds = (ctypes.c_double * max(1, self.length))()
        if self._profile(self.handle, bindings, seconds):
            raise TemperError(
                "this context is running in another thread; make one context per thread with engine.context()"
            )
        return list(seconds[: self.length])

    def __del__(self) -> None:
        if self.handle and not sys.is_finalizing():
            self._destroy(self.handle)
            self.handle = 0
