"""Kernels that reveal how they were run: which threads took part, what the floating-point environment was, whether a
run overlaps.
"""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np

from temper.compile.cc import compile_object, link
from temper.compile.host import host_library
from temper.plan.format import HOST_ABI
from temper.runtime.cpu import ADDRESS, BINDING, Call, Host, Library, NativeContext

SOURCE = r"""
#include <stdint.h>
#define EXPORT __attribute__((visibility("default")))
/* Part 0 waits (not for ever) until part 1 has begun: only two threads at once can make both flags 1. */
EXPORT void meet(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  volatile int32_t *flag = p[0];
  __atomic_store_n(&flag[part], 1, __ATOMIC_SEQ_CST);
  for (int64_t i = 0; i < v[0] && !__atomic_load_n(&flag[1 - part], __ATOMIC_SEQ_CST); i++) __builtin_ia32_pause();
  flag[2 + part] = flag[1 - part];
}
/* Begins, then waits for the caller of the test to open the gate. */
EXPORT void gate(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  int32_t *word = p[0];
  __atomic_store_n(&word[0], 1, __ATOMIC_SEQ_CST);
  while (!__atomic_load_n(&word[1], __ATOMIC_SEQ_CST)) __builtin_ia32_pause();
}
EXPORT void environment(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  ((uint32_t *)p[0])[part] = __builtin_ia32_stmxcsr() & ~63u;
}
EXPORT void set_environment(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
__builtin_ia32_ldmxcsr((uint32_t)v[0]); } /* Neighbour sums, in place of a previous launch's result: wrong if any
barrier is missed. */ EXPORT void shift(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const int64_t *x = p[0]; int64_t *y = p[1]; int64_t n = v[0];
  for (int64_t i = n * part / parts; i < n * (part + 1) / parts; i++) y[i] = x[(i + 1) % n] + 3 * x[i];
}
"""


@cache
def library() -> Library:
    return Library(link([compile_object(SOURCE, "portable")]), forever=True)


@cache
def host() -> Host:
    return Host.get(host_library(), HOST_ABI)


def at(array: np.ndarray) -> tuple[int, int, int]:
    """A fixed pointer argument."""
    return ADDRESS, 0, array.ctypes.data


def bindings(*arrays: np.ndarray) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(1, len(arrays)))(*(a.ctypes.data for a in arrays))


class Chain:
    """`length` shift launches back and forth between two buffers, split in `parts`; the first reads the binding."""

    def __init__(self, n: int, length: int, parts: list[int], threads: int) -> None:
        self.n, self.length = n, length
        self.buffers = (np.zeros(n, np.int64), np.zeros(n, np.int64))
        f = library().function("shift")
        calls = [
            Call(
                f,
                ((BINDING, 0, 0) if i == 0 else at(self.buffers[(i + 1) % 2]), at(self.buffers[i % 2])),
                (n,),
                parts[i % len(parts)],
            )
            for i in range(length)
        ]
        self.context = NativeContext(host(), calls, 1, threads)

    def run(self, x: np.ndarray) -> np.ndarray:
        table = bindings(x)
        self.context.run(ctypes.addressof(table))
        return self.buffers[(self.length + 1) % 2].copy()

    def expected(self, x: np.ndarray) -> np.ndarray:
        for _ in range(self.length):
            x = np.roll(x, -1) + 3 * x
        return x
