"""Constants of a plan: equal bytes once, whoever holds them."""

from __future__ import annotations

import numpy as np

from temper.plan.schedule import ConstantPool


def test_equal_bytes_are_stored_once() -> None:
    pool = ConstantPool()
    x = np.arange(100, dtype=np.float32)
    first = pool.add(x)
    assert pool.add(x.copy()) == pool.add(x.view(np.int32)) == first
    assert pool.add(np.zeros(3, np.int8)) % 64 == 0 and len(pool.bytes) == 448 + 64
    assert pool.holds(x) and not pool.holds(x + 1)
    assert pool.bytes[:400] == x.tobytes()


def test_arrays_that_change_are_looked_at_again() -> None:
    pool = ConstantPool()
    x = np.zeros(100, np.float32)
    first = pool.add(x)
    x[0] = 1
    assert not pool.holds(x) and pool.add(x) != first
    x.flags.writeable = False
    assert pool.add(x) == pool.add(x) != first


def test_strings_and_scalars() -> None:
    pool = ConstantPool()
    words = np.array(["a", "bc"], object)
    assert pool.add(words) == pool.add(words.copy())
    assert pool.holds(np.float32(2).reshape(())) is False
    pool.add(np.float32(2).reshape(()))
    assert pool.holds(np.array(2, np.float32))
