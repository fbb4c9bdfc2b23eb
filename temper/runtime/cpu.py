"""Machine code in memory: shared objects loaded from bytes, and single kernel calls."""
from __future__ import annotations

import ctypes
import os
import tempfile
from _ctypes import dlclose
from collections.abc import Sequence

from temper.errors import PlanError

_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)


def _unique_alias(fd: int) -> str:
    """A spelling of /proc/self/fd/N used once: dlopen returns the older library when it sees a path it knows, and N is reused."""
    bits = int.from_bytes(os.urandom(8), "little")
    return "/proc/self/fd" + "".join("/." if bits >> i & 1 else "//" for i in range(64)) + f"/{fd}"


def _open(code: bytes | memoryview) -> ctypes.CDLL:
    try:
        fd = os.memfd_create("temper", os.MFD_CLOEXEC)
    except (OSError, AttributeError):  # no memfd in this kernel or sandbox
        return _open_file(code)
    try:
        with open(fd, "wb", closefd=False) as f:
            f.write(code)
        return ctypes.CDLL(_unique_alias(fd), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError:  # executable memfds may be forbidden (vm.memfd_noexec)
        return _open_file(code)
    finally:
        os.close(fd)


def _open_file(code: bytes | memoryview) -> ctypes.CDLL:
    handle, path = tempfile.mkstemp(prefix="temper-", suffix=".so")
    try:
        with open(handle, "wb") as f:
            f.write(code)
        return ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL)
    finally:
        os.unlink(path)


class Library:
    """A shared object loaded from bytes; unloaded by `close` or when collected, after which its functions must not be called."""

    def __init__(self, code: bytes | memoryview) -> None:
        """PlanError with the loader's message if `code` is not a loadable shared object for this machine."""
        self._open = False
        try:
            self._dll = _open(code)
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
        self.close()


def call(function: int, pointers: Sequence[int], symbols: Sequence[int] = (), part: int = 0, parts: int = 1) -> None:
    """Call one kernel entry (address from `Library.function`) with operand addresses and run-time dimensions; releases the GIL."""
    p = (ctypes.c_void_p * max(1, len(pointers)))(*pointers)
    v = (ctypes.c_int64 * max(1, len(symbols)))(*symbols)
    _KERNEL(function)(ctypes.addressof(p), ctypes.addressof(v), part, parts)
