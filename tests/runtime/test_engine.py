"""Engines: results, dynamic batch, threads, in-place bindings, host steps, and an error for every wrong input."""

from __future__ import annotations

import json
import os
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temper.errors import InputError, PlanError, TemperError
from temper.plan import file as plan_file
from temper.plan.format import Binding, Copy, HostStep, Launch, Native, Profile, Ref, TypedRef
from temper.runtime import machine
from temper.runtime.engine import Engine
from tests.runtime.handmade import BIAS, expected, host_plan, make_plan, trivial_plan
from tests.runtime.test_pool import in_child


def batch(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(make_plan())


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 8)


def test_any_batch_of_any_profile(engine: Engine) -> None:
    for n in (0, 1, 2, 7, 8, 9, 33, 64, 1):
        assert np.array_equal(engine(batch(n)), expected(batch(n)))


@pytest.mark.usefixtures("many_cores")
def test_results_do_not_depend_on_threads_parts_or_run() -> None:
    x = batch(13)
    want = expected(x).tobytes()
    for parts in (1, 2, 3, 16):
        for threads in (1, 2, 5):
            e = Engine(make_plan(parts), threads=threads)
            assert e.threads == threads
            for _ in range(20):
                assert e(x).tobytes() == want


def test_threads_are_limited_to_usable_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 1)
    assert Engine(make_plan(), threads=4).threads == 1


def test_load_and_from_bytes(tmp_path: Path) -> None:
    plan_file.write(make_plan(), tmp_path / "a.plan")
    loaded = Engine.load(tmp_path / "a.plan")
    for e in (loaded, Engine.from_bytes((tmp_path / "a.plan").read_bytes()), Engine.from_bytes(loaded.to_bytes())):
        assert np.array_equal(e(batch(3)), expected(batch(3)))
    with pytest.raises(PlanError, match=r"b\.plan"):
        Engine.load(tmp_path / "b.plan")


def test_a_mapped_plan_survives_deletion_and_replacement(tmp_path: Path) -> None:
    path = tmp_path / "a.plan"
    plan_file.write(make_plan(), path)
    e = Engine.load(path)
    plan_file.write(trivial_plan(), path)
    assert np.array_equal(e(batch(3)), expected(batch(3)))
    path.unlink()
    assert np.array_equal(e(batch(4)), expected(batch(4)))


def test_ways_to_give_inputs(engine: Engine) -> None:
    x, want = batch(2), expected(batch(2))
    for y in (
        engine(x),
        engine(x=x),
        engine({"x": x}),
        engine.run({"x": x})[0],
        engine.run([x])[0],
        engine.context()(x),
    ):
        assert np.array_equal(y, want)
    assert engine.inputs[0].name == "x" and engine.inputs[0].shape == ("N", 16) and engine.inputs[0].dtype == np.float32
    assert engine.outputs[0].shape == ("N", 8)


def test_non_contiguous_read_only_and_subclassed_inputs(engine: Engine, tmp_path: Path) -> None:
    x = batch(6)
    want = expected(x)
    wide = np.zeros((6, 40), np.float32)
    wide[:, 3:19] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    np.save(tmp_path / "x.npy", x)
    shifted = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    for v in (
        wide[:, 3:19],
        np.asfortranarray(x),
        x[::-1][::-1],
        frozen,
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        shifted,
    ):
        assert np.array_equal(engine(v), want)
    assert np.array_equal(engine(x[::2]), expected(x[::2].copy()))


def test_several_models_with_two_inputs() -> None:
    add = Launch(("increment",), (Ref("input", 1), Ref("output", 0)), ("N",), 1)
    plan = make_plan(
        inputs=(Binding("a", "float32", (2,)), Binding("b", "float32", ("N",))),
        outputs=(Binding("y", "float32", ("N",)),),
        profiles=(Profile({"N": (1, 2, 4)}, (), 0),),
        buffers=(),
        programs=((Native((add,)),),),
    )
    e = Engine(plan)
    a, b = np.zeros(2, np.float32), np.ones(3, np.float32)
    for y in (e(a, b), e(a=a, b=b), e(b=b, a=a), e({"b": b, "a": a}), e(a, b=b), e.run([a, b])[0]):
        assert y.tolist() == [2, 2, 2]
    with pytest.raises(InputError, match="missing input 'b' float32"):
        e(a)
    with pytest.raises(InputError, match="both by position and by name"):
        e(a, a=a)
    with pytest.raises(InputError, match="3 inputs given, the model has 2"):
        e(a, b, b)
    with pytest.raises(InputError, match="not both"):
        e({"a": a}, b=b)


def test_out_is_written_in_place(engine: Engine) -> None:
    x = batch(5)
    out = np.full((5, 8), 9, np.float32)
    for given in (out, [out], {"y": out}):
        out[:] = 9
        assert engine(x, out=given) is out
        assert np.array_equal(out, expected(x))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (
            np.empty((5, 8), np.float64),
            "float64 array.*expected a writeable C-contiguous float32 array of shape \\(5, 8\\)",
        ),
        (np.empty((4, 8), np.float32), "shape \\(4, 8\\)"),
        (np.empty((5, 16), np.float32)[:, ::2], "not contiguous"),
        ({"z": np.empty((5, 8), np.float32)}, "out names 'z'.*outputs are y"),
        ([], "out has 0 arrays"),
        ([[1.0]], "out for 'y' is a list"),
    ],
)
def test_unusable_out(engine: Engine, out: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine(batch(5), out=out)


def test_out_must_not_be_an_input() -> None:
    x = np.ones(4, np.float32)
    with pytest.raises(InputError, match="shares memory"):
        Engine(trivial_plan(4))(x, out=x)


@pytest.mark.parametrize(
    ("args", "named", "message"),
    [
        ((), {}, "missing input 'x' float32\\(N, 16\\)"),
        ((), {"z": batch(1)}, "no input named 'z'; the model's inputs are x"),
        ((batch(1), batch(1)), {}, "2 inputs given, the model has 1: x"),
        ((batch(1).astype(np.float64),), {}, "'x' has dtype float64, expected float32: convert"),
        ((batch(1).astype(">f4"),), {}, "'x' has dtype >f4, expected float32"),
        ((batch(1)[0],), {}, "'x' has shape \\(16,\\), expected \\(N, 16\\): rank 1 instead of 2"),
        ((batch(1)[:, :15],), {}, "'x' has shape \\(1, 15\\), expected \\(N, 16\\): axis 1 must be 16, not 15"),
        ((batch(65),), {}, "no profile.*N = 65.*N 0 to 8 \\(best 1\\); N 9 to 64 \\(best 32\\)"),
        (([[0.0] * 16],), {}, "'x' is a list, expected a numpy array: 'x' float32\\(N, 16\\)"),
        ((None,), {}, "'x' is a NoneType"),
    ],
)
def test_wrong_inputs(engine: Engine, args: tuple[object, ...], named: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine(*args, **named)
    assert np.array_equal(engine(batch(2)), expected(batch(2)))


def test_symbols_must_agree_between_inputs() -> None:
    plan = make_plan(
        inputs=(Binding("a", "float32", ("N", "2*N")), Binding("b", "float32", ("N",))),
        outputs=(),
        buffers=(),
        profiles=(Profile({"N": (1, 2, 4)}, (), 0),),
        programs=((Native(()),),),
    )
    e = Engine(plan)
    assert e(np.zeros((2, 4), np.float32), np.zeros(2, np.float32)) == {}
    with pytest.raises(InputError, match="N is 3 here and 2 in input 'a'"):
        e(np.zeros((2, 4), np.float32), np.zeros(3, np.float32))
    with pytest.raises(InputError, match="axis 1 must be 2\\*N = 4, not 5"):
        e(np.zeros((2, 5), np.float32), np.zeros(2, np.float32))


def test_scalars_and_numpy_scalars() -> None:
    plan = trivial_plan()
    plan = replace(plan, inputs=(Binding("x", "float32", ()),), outputs=(Binding("y", "float32", ()),))
    e = Engine(plan)
    for x in (np.float32(2), np.array(2, np.float32)):
        y = e(x)
        assert isinstance(y, np.ndarray) and y.shape == () and y == 3
    with pytest.raises(InputError, match="is a float"):
        e(2.0)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_host_steps_copies_and_sizes_that_depend_on_data(n: int) -> None:
    e = Engine(host_plan())
    x = batch(n)
    d = (2 * x).reshape(-1)
    want = np.maximum((d + d[::-1]).reshape(x.shape), 0) + 1
    result = e(x)
    assert isinstance(result, dict) and list(result) == ["y", "same", "x_again", "bias", "where"]
    assert np.array_equal(result["y"], want) and np.array_equal(result["same"], want)
    assert np.array_equal(result["x_again"], x) and not np.shares_memory(result["x_again"], x)
    assert np.array_equal(result["bias"], BIAS) and result["bias"].flags.writeable
    assert np.array_equal(result["where"], np.argwhere(x).T)


def test_profile_layers_names_every_step() -> None:
    times = Engine(host_plan()).profile_layers([batch(4)], repeats=3)
    assert [(t.name, t.host, t.report) for t in times] == [
        ("mix", False, 0),
        ("relu", True, -1),
        ("add", False, -1),
        ("nonzero", True, -1),
    ]
    assert all(t.seconds > 0 for t in times)
    assert [t.report for t in Engine(make_plan()).profile_layers({"x": batch(4)})] == [0, 1]


def test_a_host_step_that_breaks_its_promise() -> None:
    wrong = HostStep(
        "Relu",
        {},
        (TypedRef(Ref("input"), "float32", ("N", 16)),),
        (TypedRef(Ref("output"), "float32", ("N", 8)),),
        "r",
        "relu",
    )
    with pytest.raises(PlanError, match="host step relu made float32\\(2, 16\\), the plan expects float32\\(2, 8\\)"):
        Engine(make_plan(programs=((wrong,),)))(batch(2))
    with pytest.raises(PlanError, match="host step Missing"):
        Engine(make_plan(programs=((replace(wrong, op="Missing"),),)))(batch(2))


def test_copy_between_outputs_and_from_the_arena() -> None:
    plan = make_plan(
        outputs=(Binding("y", "float32", ("N", 8)), Binding("t", "float32", ("N", 16))),
        copies=(Copy(1, Ref("arena", 1)),),
    )
    x = batch(3)
    d = (2 * x).reshape(-1)
    assert np.array_equal(Engine(plan)(x)["t"], (d + d[::-1]).reshape(x.shape))


def test_many_threads_one_engine(engine: Engine) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(150):
            x = batch(int(rng.integers(1, 64)), seed)
            if not np.array_equal(engine(x), expected(x)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_contexts_are_independent(engine: Engine) -> None:
    a, b = engine.context(), engine.context()
    ya = a(batch(4, 1))
    assert np.array_equal(b(batch(9, 2)), expected(batch(9, 2)))
    assert np.array_equal(ya, expected(batch(4, 1)))
    a._lock.acquire()
    with pytest.raises(TemperError, match="one context per thread"):
        a(batch(1))
    a._lock.release()


def test_a_context_outlives_its_engine() -> None:
    context = Engine(make_plan()).context()
    assert np.array_equal(context(batch(4)), expected(batch(4)))


def test_more_shapes_than_are_kept() -> None:
    e = Engine(make_plan(profiles=(Profile({"N": (0, 1, 300)}, (0, 300 * 64), 300 * 128, 32),)))
    context = e.context()
    for n in (*range(200), *range(0, 200, 7)):
        assert np.array_equal(context(batch(n)), expected(batch(n)))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_children_use_the_engine(engine: Engine) -> None:
    x = batch(20)
    want = expected(x)
    assert np.array_equal(engine(x), want)
    for _ in range(3):
        assert in_child(lambda: all(np.array_equal(engine(x), want) for _ in range(20)))
    assert np.array_equal(engine(x), want)


def test_a_plan_for_another_cpu() -> None:
    with pytest.raises(PlanError, match="needs CPU flags this machine .* lacks: amx-dream, avx1024; build"):
        Engine(make_plan(needs=("sse2", "avx1024", "amx-dream"), isa="avx1024"))
    e = Engine(make_plan(fingerprint={**machine.fingerprint(), "cpu": "Another CPU"}))
    assert "tuned on Another CPU" in e.remarks[0]
    assert Engine(make_plan()).remarks == ()


def test_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(PlanError, match="this machine is aarch64"):
        Engine(make_plan())


def test_kernels_that_are_missing_or_misused() -> None:
    with pytest.raises(PlanError, match="no function mix_0"):
        from temper.compile.cc import compile_object, link
        from tests.runtime.probes import SOURCE

        Engine(make_plan(kernels=link([compile_object(SOURCE, "portable")])))(batch(1))
    with pytest.raises(PlanError, match="has no machine code"):
        Engine(make_plan(kernels=b""))(batch(1))
    with pytest.raises(PlanError, match="slot 0, which the plan does not have"):
        Engine(make_plan(programs=((Native((Launch(("dense",), (Ref("host"),)),)),),)))(batch(1))


def test_no_memory_is_allocated_between_runs(engine: Engine) -> None:
    """Once Python's free lists are warm, 500 calls with out= leave the heap as it was."""
    context, x = engine.context(), batch(32)
    out = np.empty((32, 8), np.float32)
    growth = []
    tracemalloc.start()
    try:
        for _ in range(8):
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(500):
                context(x, out=out)
            growth.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert min(growth) < 64


def test_fingerprint_is_stable_and_plain() -> None:
    assert json.loads(json.dumps(machine.fingerprint())) == machine.fingerprint()
    assert machine.cores() == len(os.sched_getaffinity(0))


def test_one_value_listed_as_two_outputs_of_one_name() -> None:
    plan = make_plan(outputs=(Binding("y", "float32", ("N", 8)),) * 2, copies=(Copy(1, Ref("output", 0)),))
    first, second = Engine(plan).run([batch(3)])
    assert np.array_equal(first, expected(batch(3))) and np.array_equal(second, first)
    assert not np.shares_memory(first, second)
