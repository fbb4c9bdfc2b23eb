"""What the op library does not say of attention, normalisation and reductions on GPUs: code for every level, and sizes
of real networks."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temper.compile.triton import CUDA_ISAS, compile_cubin
from temper.ir.dims import Dim, DimLike, evaluate
from temper.ir.types import TensorType
from temper.reference import REFERENCES
from temper.tactics.base import Params, Slot, Tactic, Workload
from temper.tactics.cuda.attention import Attention, parts
from temper.tactics.cuda.attention_int8 import AttentionInt8
from temper.tactics.cuda.group_norm import GroupNorm
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.norm import LayerNorm
from temper.tactics.cuda.reduce import Reduce
from temper.tactics.epilogue import Epilogue, Instr, Operand
from tests.tactics.cuda.interpret import Job, interpret

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be compiled", allow_module_level=True)


def _stored(dtype: str, rank: int) -> Epilogue:
    """A float32 result rounded to `dtype`."""
    return Epilogue((Operand("float32", (True,) * rank),), (Instr("Cast", (0,), dtype),), (1,))


#: A number that a kernel reads.
SCALE = Slot(TensorType("float32", ()))


def bert(batch: int, dtype: str = "float16", isa: str = "sm_90") -> Workload:
    """BERT-large's attention at sequence 128: queries, keys and values are slices of rows of 3072."""
    rows = Slot(TensorType(dtype, (batch, 128, 1024)), 3072)
    mask = Slot(TensorType("float32", (batch, 1, 1, 128)))
    attrs = {"causal": 0, "heads": 16, "kv_heads": 16, "layout": "rrrr", "safe": 0}
    out = (Slot(TensorType(dtype, (batch, 128, 1024))),)
    op, widened = ("AttentionInt8", ()) if dtype == "int8" else ("Attention", (0, 1, 2))
    slots, constant = (rows, rows, rows, mask), (False,) * 4
    if dtype == "int8":
        attrs, slots, constant = {**attrs, "zero_point": 0}, (*slots, SCALE), (*constant, True)
    else:
        attrs = {**attrs, "scale": 0.125}
    return Workload(op, tuple(sorted(attrs.items())), slots, constant, out, _stored(dtype, 3), isa, 1, widened)


def norm(rows: int, isa: str = "sm_90") -> Workload:
    x, scale = Slot(TensorType("float16", (rows, 1024))), Slot(TensorType("float32", (1024,)))
    slots, constant = (x, scale, scale), (False, True, True)
    attrs = (("axis", -1), ("epsilon", 1e-12))
    return Workload("LayerNormalization", attrs, slots, constant, (x,), _stored("float16", 2), isa, 1, (0,))


def groups(isa: str = "sm_90") -> Workload:
    x, scale = Slot(TensorType("float16", (2, 64, 64, 320))), Slot(TensorType("float32", (320,)))
    slots, constant = (x, scale, scale), (False, True, True)
    attrs = (("channels_last", 1), ("epsilon", 1e-5), ("num_groups", 32))
    return Workload("GroupNormalization", attrs, slots, constant, (x,), _stored("float16", 4), isa, 1, (0,))


def mean(isa: str = "sm_90") -> Workload:
    x, y = (Slot(TensorType("float32", shape)) for shape in ((4, 1 << 20), (4, 1)))
    attrs = (("axes", (1,)), ("keepdims", 1))
    return Workload("ReduceMean", attrs, (x,), (False,), (y,), Epilogue.identity("float32", 2), isa)


def kernel(tactic: Tactic, w: Workload, params: Params | None = None) -> TritonKernel:
    assert tactic.accepts(w) is None
    made = tactic.generate(w, tactic.candidates(w)[0] if params is None else params, "k")
    assert isinstance(made, TritonKernel)
    return made


@pytest.mark.parametrize("isa", CUDA_ISAS)
def test_no_level_spills(isa: str) -> None:
    subjects: Sequence[tuple[Tactic, Workload]] = (
        (Attention(), bert(32, isa=isa)),
        (AttentionInt8(), bert(32, "int8", isa)),
        (LayerNorm(), norm(4096, isa)),
        (GroupNorm(), groups(isa)),
        (Reduce(), mean(isa)),
    )
    for tactic, w in subjects:
        for source in kernel(tactic, w).sources:
            cubin = compile_cubin(source, isa)
            # a word or two the assembler may trade for another block on a processor
            assert cubin.frame <= 16, f"{tactic.name} spills on {isa}"
            assert cubin.shared <= 99 * 1024


def test_one_block_of_keys_is_scored_once() -> None:
    """Codes are relative to the largest score: with all keys in one block it is known after one product."""
    tactic, w = AttentionInt8(), bert(32, "int8")
    counts = {dict(p)["bn"]: kernel(tactic, w, p).source.count("keys = tl.load") for p in tactic.candidates(w)}
    assert counts[128] == 1 and counts[64] == 2


def test_long_sums_are_shared_out() -> None:
    """4 sums of 2^20 elements by more blocks than 4, joined by a second launch."""
    made = kernel(Reduce(), mean())
    assert len(made.entries) == 2 and made.grids[0] > 64 and made.grids[1] <= 4
    assert made.shared_workspace


@pytest.mark.parametrize("keys", [600, Dim.symbol("T")])
def test_long_sums_of_codes_are_exact(keys: DimLike, tmp_path: Path) -> None:
    """More keys than float32 sums exactly: all of them alike, so that every weight is 255, and full-range values."""
    env = {"T": 600}
    q, k, v = (Slot(TensorType("int8", (1, n, 2 * d))) for n, d in ((3, 32), (keys, 32), (keys, 16)))
    out = Slot(TensorType("float32", (1, 3, 32)))
    attrs = {"causal": 0, "heads": 2, "kv_heads": 2, "layout": "rrrr", "safe": 0, "zero_point": 3}
    slots, constant, identity = (q, k, v, None, SCALE), (False,) * 4 + (True,), Epilogue.identity("float32", 3)
    w = Workload("AttentionInt8", tuple(sorted(attrs.items())), slots, constant, (out,), identity, "sm_90")
    rng = np.random.default_rng(5)
    arrays = {n: rng.integers(-128, 128, (1, s, d), np.int8) for n, s, d in (("q", 3, 64), ("k", 600, 64))}
    arrays |= {"v": rng.integers(126, 128, (1, 600, 32), np.int8), "y": np.zeros((1, 3, 32), np.float32)}
    arrays["scale"] = np.array([1e-9], np.float32)
    names = {("input", 0): "q", ("input", 1): "k", ("input", 2): "v", ("input", 4): "scale", ("output", 0): "y"}
    made = kernel(AttentionInt8(), w)
    arguments = (*((names[a], 0) for a in made.args), *(env[s] for s in made.symbols))
    job = Job(made.source, made.entries[0], evaluate(made.grid, env), arguments)
    got = interpret([job], arrays, tmp_path)["y"]
    want = REFERENCES["AttentionInt8"]([*(arrays[n] for n in "qkv"), None, arrays["scale"][0]], attrs)[0]
    assert np.array_equal(got, want) and want.min() > 126


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_keys_that_no_power_of_two_holds_are_attended_to_in_parts(dtype: str, tmp_path: Path) -> None:
    """100 keys are blocks of 64, 32 and 16: codes agree bit for bit, halves to what they round to."""
    assert parts(0, 100, 3) == [(0, 64), (64, 32), (96, 16)]
    assert parts(32, 100, 3) == [(32, 64), (96, 16)]
    assert parts(0, 100, 1) == parts(0, 128, 3) == [(0, 128)]
    t = TensorType(dtype, (1, 100, 64))
    attrs = {"causal": 0, "heads": 2, "kv_heads": 2, "layout": "rrrr", "safe": 0}
    attrs |= {"zero_point": 0} if dtype == "int8" else {"scale": 0.125}
    more = (None, SCALE) if dtype == "int8" else ()
    op, tactic = ("AttentionInt8", AttentionInt8()) if dtype == "int8" else ("Attention", Attention())
    widened, out = () if dtype == "int8" else (0, 1, 2), Slot(TensorType("float32", (1, 100, 64)))
    slots, identity = (Slot(t),) * 3 + more, Epilogue.identity("float32", 3)
    given, constant = tuple(sorted(attrs.items())), (False,) * len(slots)
    w = Workload(op, given, slots, constant, (out,), identity, "sm_90", 1, widened)
    rng = np.random.default_rng(3)
    arrays = {n: rng.integers(-128, 128, (1, 100, 64), np.int8) for n in "qkv"}
    if dtype == "float16":
        arrays = {n: rng.standard_normal((1, 100, 64)).astype(np.float16) for n in "qkv"}
    arrays |= {"y": np.zeros((1, 100, 64), np.float32), "scale": np.array([1e-4], np.float32)}
    names = {("input", 0): "q", ("input", 1): "k", ("input", 2): "v", ("input", 4): "scale", ("output", 0): "y"}
    widths = {128: 3, 32: 1} if dtype == "int8" else {32: 2, 64: 3}  # loads of keys in the text, by what a block holds
    for bn, loads in widths.items():
        params = next(p for p in tactic.candidates(w) if dict(p)["bn"] == bn)
        made = kernel(tactic, w, params)
        if dtype == "float16" or bn == 128:
            assert made.source.count("keys = tl.load") == loads
        job = Job(made.source, made.entries[0], evaluate(made.grid, {}), tuple((names[a], 0) for a in made.args))
        folder = tmp_path / str(bn)
        folder.mkdir()
        got = interpret([job], arrays, folder)["y"]
        wide = [arrays[n] if dtype == "int8" else arrays[n].astype(np.float32) for n in "qkv"]
        want = REFERENCES[op]([*wide, None, arrays["scale"][0]] if more else wide, attrs)[0]
        assert np.array_equal(got, want) if dtype == "int8" else np.abs(got - want).max() < 2e-3


def test_short_rows_share_a_block() -> None:
    """64 numbers a row give a block of 32 threads more than one row."""
    w = norm(1 << 16)
    narrow = Slot(TensorType("float16", (1 << 16, 64))), Slot(TensorType("float32", (64,)))
    w = replace(w, inputs=(narrow[0], narrow[1], narrow[1]), outputs=(narrow[0],))
    assert dict(LayerNorm().candidates(w)[0])["bm"] > 1


def test_declines_with_a_reason() -> None:
    w = bert(2)
    assert Attention().accepts(replace(w, isa="avx2")) == "no such GPU level: avx2"
    double = replace(w, inputs=tuple(replace(s, type=TensorType("float64", s.type.shape)) for s in w.inputs if s))
    assert Attention().accepts(double) == "attends in float32, float16, bfloat16, not float64"
    wide = Slot(TensorType("float16", (2, 128, 16 * 512)))
    reason = Attention().accepts(replace(w, inputs=(wide, wide, wide)))
    assert reason == "heads of 512 columns do not fit in registers"
    assert LayerNorm().accepts(w) == "computes LayerNormalization and RMSNormalization, not Attention"
