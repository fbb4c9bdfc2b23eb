"""The thread pool and its contexts: barriers, sharing, forking, and the floating-point environment."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from temper.compile.cc import compile_object, link
from temper.compile.host import host_library
from temper.errors import PlanError, TemperError
from temper.runtime import machine
from temper.runtime.cpu import Call, Host, Library, NativeContext, call
from tests.runtime.handmade import kernels
from tests.runtime.probes import Chain, at, bindings, host, library

NOTHING = bindings()


def in_child(work: Callable[[], bool]) -> bool:
    """Runs `work` in a forked child; True if it returned True within 20 seconds."""
    child = os.fork()
    if not child:
        ok = False
        try:
            ok = work()
        finally:
            os._exit(0 if ok else 1)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("parts", [[1], [2], [8], [1, 2], [3, 1, 1, 7], [1, 64]])
def test_barriers_hold_whatever_the_split(threads: int, parts: list[int]) -> None:
    chain = Chain(37, 23, parts, threads)
    for seed in range(60):
        x = np.random.default_rng(seed).integers(0, 9, 37)
        assert np.array_equal(chain.run(x), chain.expected(x))


@pytest.mark.skipif(machine.cores() < 2, reason="needs two CPUs")
def test_two_threads_work_at_once() -> None:
    flags = np.zeros(4, np.int32)
    context = NativeContext(host(), [Call(library().function("meet"), (at(flags),), (50_000_000,), 2)], 0, 2)
    context.run(ctypes.addressof(NOTHING))
    assert flags.tolist() == [1, 1, 1, 1]


def test_single_part_launches_stay_on_the_caller() -> None:
    flags = np.zeros(4, np.int32)
    environment = np.zeros(1, np.uint32)
    calls = [
        Call(library().function("environment"), (at(environment),)),
        Call(library().function("meet"), (at(flags),), (10,), 2),
    ]
    NativeContext(host(), calls, 0, 2).run(ctypes.addressof(NOTHING))
    assert environment[0] == 0x1F80


def test_sleeping_workers_wake() -> None:
    host().set_spin(0)
    try:
        chain = Chain(64, 9, [4], 4)
        for seed in range(200):
            x = np.random.default_rng(seed).integers(0, 9, 64)
            assert np.array_equal(chain.run(x), chain.expected(x))
            if seed % 50 == 0:
                time.sleep(0.01)
    finally:
        host().set_spin(100)


def test_contexts_come_and_go_in_many_threads() -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for i in range(40):
            chain = Chain(
                int(rng.integers(1, 50)),
                int(rng.integers(1, 12)),
                [int(p) for p in rng.integers(1, 9, 3)],
                int(rng.integers(1, 5)),
            )
            for _ in range(5):
                x = rng.integers(0, 9, chain.n)
                if not np.array_equal(chain.run(x), chain.expected(x)):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_a_running_context_refuses_a_second_run() -> None:
    words = np.zeros(2, np.int32)
    context = NativeContext(host(), [Call(library().function("gate"), (at(words),))], 0, 1)
    first = threading.Thread(target=context.run, args=(ctypes.addressof(NOTHING),))
    first.start()
    while not words[0]:
        time.sleep(0.001)
    try:
        with pytest.raises(TemperError, match="another thread"):
            context.run(ctypes.addressof(NOTHING))
        with pytest.raises(TemperError, match="another thread"):
            context.profile(ctypes.addressof(NOTHING))
    finally:
        words[1] = 1
        first.join()
    context.run(ctypes.addressof(NOTHING))


def test_other_contexts_run_while_the_pool_is_taken() -> None:
    words = np.zeros(2, np.int32)
    blocked = NativeContext(host(), [Call(library().function("gate"), (at(words),), (), 2)], 0, 2)
    first = threading.Thread(target=blocked.run, args=(ctypes.addressof(NOTHING),))
    first.start()
    while not words[0]:
        time.sleep(0.001)
    try:
        chain = Chain(64, 8, [4], 4)
        x = np.arange(64)
        assert np.array_equal(chain.run(x), chain.expected(x))
    finally:
        words[1] = 1
        first.join()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_floating_point_environment_is_ours_inside_and_the_callers_outside(threads: int) -> None:
    flush = 0x1F80 | 0x8040  # flush to zero, denormals are zero
    inside, after = np.zeros(4, np.uint32), np.zeros(1, np.uint32)
    context = NativeContext(host(), [Call(library().function("environment"), (at(inside),), (), 4)], 0, threads)
    call(library().function("set_environment"), [], [flush])
    try:
        context.run(ctypes.addressof(NOTHING))
        call(library().function("environment"), [after.ctypes.data])
    finally:
        call(library().function("set_environment"), [], [0x1F80])
    assert set(inside.tolist()) == {0x1F80}
    assert after[0] == flush


def test_profile_gives_every_call_its_time() -> None:
    chain = Chain(4096, 6, [2, 1], 2)
    table = bindings(np.arange(4096))
    seconds = chain.context.profile(ctypes.addressof(table))
    assert len(seconds) == 6 and all(s > 0 for s in seconds)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_a_pool_of_its_own() -> None:
    chain = Chain(64, 12, [2, 4], 2)
    x = np.arange(64)
    want = chain.expected(x)
    assert np.array_equal(chain.run(x), want)

    def child() -> bool:
        old = np.array_equal(chain.run(x), want)
        other = Chain(64, 12, [4], 4)
        grandchild = in_child(lambda: np.array_equal(other.run(x), want))
        return old and grandchild and all(np.array_equal(other.run(x), want) for _ in range(50))

    for _ in range(5):
        assert in_child(child)
        assert np.array_equal(chain.run(x), want)


@pytest.mark.skipif(machine.cores() < 2, reason="needs two CPUs")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_workers_exist_again_after_fork() -> None:
    def child() -> bool:
        flags = np.zeros(4, np.int32)
        NativeContext(host(), [Call(library().function("meet"), (at(flags),), (50_000_000,), 2)], 0, 2).run(
            ctypes.addressof(NOTHING)
        )
        return flags.tolist() == [1, 1, 1, 1]

    Chain(8, 2, [2], 2).run(np.arange(8))
    assert in_child(child)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_fork_while_another_thread_runs() -> None:
    """The child gets the pool and the context back although the thread that used them does not exist there."""
    words = np.zeros(2, np.int32)
    context = NativeContext(host(), [Call(library().function("gate"), (at(words),), (), 2)], 0, 2)
    first = threading.Thread(target=context.run, args=(ctypes.addressof(NOTHING),))
    first.start()
    while not words[0]:
        time.sleep(0.001)

    def child() -> bool:
        words[1] = 1
        context.run(ctypes.addressof(NOTHING))
        chain = Chain(64, 8, [4], 2)
        return np.array_equal(chain.run(np.arange(64)), chain.expected(np.arange(64)))

    try:
        assert in_child(child)
    finally:
        words[1] = 1
        first.join()


def test_libraries_loaded_one_after_another_are_not_mixed_up() -> None:
    """dlopen would hand out the earlier library if both were seen under one path."""
    text = (
        '__attribute__((visibility("default"))) '
        "void k(void *const *p, const long *v, int part, int parts) {{ *(int *)p[0] = {}; }}"
    )
    word = np.zeros(1, np.int32)
    codes = [link([compile_object(text.format(i), "portable")]) for i in range(3)]
    kept = []
    for round_ in range(4):
        for i, code in enumerate(codes):
            loaded = Library(code)
            call(loaded.function("k"), [word.ctypes.data])
            assert word[0] == i
            if round_ % 2:
                loaded.close()
            else:
                kept.append(loaded)
    del kept
    gc.collect()


def test_bad_machine_code_and_missing_functions() -> None:
    with pytest.raises(PlanError, match="cannot be loaded"):
        Library(b"not a shared object")
    with pytest.raises(PlanError, match="no function nothing_here"):
        library().function("nothing_here")
    with pytest.raises(PlanError, match="interface"):
        Host(host_library(), 77)


def test_memfd_forbidden_falls_back_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(1, "not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)
    assert Library(kernels()).function("dense")


def test_the_process_exits_cleanly_while_workers_spin() -> None:
    code = (
        "import numpy as np; from tests.runtime.probes import Chain, host\n"
        "host().set_spin(5_000_000); c = Chain(64, 4, [4], 4); c.run(np.arange(64))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (done.returncode, done.stderr) == (0, "")
