"""Builds side by side on one GPU do not time at once."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from temper.tune.cuda_bench import turn


def test_one_build_at_a_time_uses_a_gpu() -> None:
    gpu: Any = SimpleNamespace(bus="test-0")
    inside, most = [0], [0]
    lock = threading.Lock()

    def use() -> None:
        for _ in range(5):
            with turn(gpu):
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                threading.Event().wait(0.002)
                with lock:
                    inside[0] -= 1

    threads = [threading.Thread(target=use) for _ in range(3)]
    for t in threads:
        t.start()
    with turn(SimpleNamespace(bus="test-1")):  # type: ignore[arg-type]  # another GPU does not wait
        for t in threads:
            t.join(10)
    assert most == [1] and inside == [0]
