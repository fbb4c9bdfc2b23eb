"""What is kept of what was computed of constants."""

from __future__ import annotations

import numpy as np

from temper.ir.derived import Derived

CALLS: list[int] = []


def doubled(x: np.ndarray, times: int = 2) -> np.ndarray:
    CALLS.append(x.size)
    return x * times


def counted(derived: Derived, *given: object) -> tuple[np.ndarray, int]:
    before = len(CALLS)
    return derived(doubled, *given), len(CALLS) - before


def frozen(count: int) -> np.ndarray:
    x = np.arange(count, dtype=np.float32)
    x.flags.writeable = False
    return x


def test_large_arrays_are_known_by_identity() -> None:
    derived, x = Derived(), frozen(1 << 17)
    first, calls = counted(derived, x)
    assert calls == 1 and np.array_equal(first, 2 * x) and not first.flags.writeable
    again, calls = counted(derived, x)
    assert calls == 0 and again is first
    assert counted(derived, frozen(1 << 17))[1] == 1, "an equal array is another one"
    assert counted(derived, first)[1] == 1 and counted(derived, first)[1] == 0


def test_what_may_change_is_not_kept() -> None:
    derived, x = Derived(), np.zeros(1 << 17, np.float32)
    counted(derived, x)
    x += 1
    y, calls = counted(derived, x)
    assert calls == 1 and y[0] == 2


def test_small_arrays_are_known_by_content() -> None:
    derived, x = Derived(), np.zeros(8, np.float32)
    assert counted(derived, x)[1] == 1
    assert counted(derived, x.copy())[1] == 0
    assert counted(derived, x.reshape(2, 4))[1] == 1
    assert counted(derived, x.astype(np.int32))[1] == 1
    x += 1
    y, calls = counted(derived, x)
    assert calls == 1 and y[0] == 2


def test_arguments_tell_results_apart() -> None:
    derived, x = Derived(), frozen(8)
    assert counted(derived, x, 3)[0][1] == 3 and counted(derived, x, 5)[0][1] == 5
    assert Derived()(doubled, x)[1] == 2
