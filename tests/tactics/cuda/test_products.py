"""Products on GPUs beyond what the op library's shapes reach: cubins of copied tiles, parts of the terms, packing."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from temper.compile.triton import compile_cubin
from temper.ir.derived import Derived
from temper.ir.types import TensorType
from temper.tactics.base import Slot, Workload, packed
from temper.tactics.cuda import register_tiles
from temper.tactics.cuda.conv import ConvImplicitGemm, GemmTiles
from temper.tactics.cuda.product_tma import GemmStreamed
from temper.tactics.cuda.stem import ConvFewChannels
from temper.tactics.epilogue import Epilogue, Instr, Operand

FULL, CHANNEL = Operand("float32", (True, True)), Operand("float32", (False, True))


def product(rows: int, terms: int, channels: int, dtype: str = "float16", isa: str = "sm_90") -> Workload:
    """A matrix product of halves, with GELU."""
    e = Epilogue((FULL,), (Instr("Gelu", (0,), "float32"), Instr("Cast", (1,), "float16", (("to", "float16"),))), (2,))
    slots = [Slot(TensorType(dtype, shape)) for shape in ((rows, terms), (terms, channels))]
    out = Slot(TensorType("float16", (rows, channels)))
    attrs = (("transA", 0), ("transB", 0))
    return Workload("MatMul", attrs, tuple(slots), (False, True), (out,), e, isa, widened=(0, 1))


def codes(size: int, channels: tuple[int, int], kernel: int, zero: int, dtype: str = "int8") -> Workload:
    """A convolution of codes with padding."""
    mask = (True,) * 4
    e = Epilogue((Operand("int32", mask),), (), (0,))
    attrs = (
        ("bits", 25), ("channels_last", 1), ("dilations", (1, 1)), ("group", 1), ("pads", (kernel // 2,) * 4),
        ("strides", (2, 2)), ("zero_point", zero),
    )  # fmt: skip
    x = Slot(TensorType(dtype, (1, size, size, channels[0])))
    w = Slot(TensorType("int8", (kernel, kernel, *channels)))
    out = Slot(TensorType("int32", (1, size // 2, size // 2, channels[1])))
    return Workload("ConvInt8", attrs, (x, w), (False, True), (out,), e, "sm_90")


@pytest.mark.parametrize("isa", ["sm_90", "sm_100"])
def test_cubin_of_copied_tiles(isa: str) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed: no GPU kernel can be compiled")
    w, tactic = product(4096, 1024, 1024, isa=isa), GemmStreamed()
    assert tactic.accepts(w) is None
    kernel = tactic.generate(w, tactic.candidates(w)[0], "copied")
    cubin = compile_cubin(kernel.triton, isa)
    assert cubin.frame == 0, "spills registers"
    assert 0 < cubin.scratch_bytes <= kernel.triton.scratch and kernel.args[-1] == ("shared", 0)
    assert kernel.shared_workspace == kernel.grid * kernel.triton.scratch


def test_copied_tiles_decline_with_a_reason() -> None:
    tactic = GemmStreamed()
    assert tactic.accepts(product(4096, 1024, 1024, isa="sm_80")) == "sm_80 has no engine that copies tiles"
    assert "multiples of 16" in str(tactic.accepts(product(4096, 1027, 1024)))
    assert "too small" in str(tactic.accepts(product(16, 1024, 1024)))
    single = replace(product(4096, 1024, 1024, "float32"), widened=())
    assert "tensor cores" in str(tactic.accepts(single)) and tactic.accepts(replace(single, tf32=True)) is None


def test_few_rows_are_split_over_the_terms() -> None:
    w, tactic = product(64, 4096, 1024), GemmTiles()
    best = tactic.candidates(w)[0]
    assert dict(best)["split"] > 1
    kernel = tactic.generate(w, best, "parts")
    assert kernel.entries == ("parts", "parts_sum") and len(kernel.grids) == 2
    assert kernel.shared_workspace == dict(best)["split"] * 64 * 1024 * 4
    assert "gelu_half" in kernel.then[0].text and "gelu_half" not in kernel.triton.text
    many = product(16384, 4096, 1024)
    assert all(dict(p)["split"] == 1 for p in tactic.candidates(many))


def test_what_lies_outside_the_image_is_read_where_zeros_do_not_stand_for_it() -> None:
    tactic, rng = ConvImplicitGemm(), np.random.default_rng(2)
    weights = rng.integers(-127, 128, (3, 3, 32, 16)).astype(np.int8)
    plain, shifted = codes(8, (32, 16), 3, 0), codes(8, (32, 16), 3, -128)
    assert len(tactic.prepack(plain, tactic.candidates(plain)[0], {1: weights})) == 2
    packed, bias, pixel = tactic.prepack(shifted, tactic.candidates(shifted)[0], {1: weights})
    assert pixel.dtype == np.int8 and pixel.tolist() == [-128] * 32
    assert np.array_equal(bias, 128 * weights.astype(np.int64).sum(axis=(0, 1, 2)))
    few = rng.integers(-127, 128, (3, 3, 20, 16)).astype(np.int8)
    odd = codes(8, (20, 16), 3, -128)
    params = next(p for p in tactic.candidates(odd) if dict(p)["flat"])
    packed, bias, table = tactic.prepack(odd, params, {1: few})
    assert table.shape == (16, 16) and not table[0].any()
    # the last way loses a row and a column on either side and sees the middle tap alone
    rest = few.astype(np.int64).sum(axis=(0, 1, 2)) - few[1, 1].astype(np.int64).sum(axis=0)
    assert np.array_equal(table[-1], -128 * rest)


def test_few_channels_are_folded() -> None:
    tactic = ConvFewChannels()
    w = codes(32, (3, 16), 7, 128, "uint8")
    assert tactic.accepts(w) is None
    kernel = tactic.generate(w, tactic.candidates(w)[0], "first")
    assert kernel.entries == ("first_fold", "first")
    weights = np.random.default_rng(3).integers(-127, 128, (7, 7, 3, 16)).astype(np.int8)
    packed, bias = tactic.prepack(w, tactic.candidates(w)[0], {1: weights})
    assert packed.shape == (16, 4, 4, 16) and packed.astype(int).sum() == weights.astype(int).sum() and not bias.any()
    assert "at most 8 bytes" in str(tactic.accepts(codes(32, (16, 16), 7, 0)))


def test_cubin_where_channels_do_not_fill_the_steps() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed: no GPU kernel can be compiled")
    w, tactic = codes(16, (48, 16), 3, -128), ConvImplicitGemm()
    params = next(p for p in tactic.candidates(w) if 48 % dict(p)["bk"] and dict(p)["split"] == 1)
    kernel = tactic.generate(w, params, "border")
    assert "blank" in kernel.triton.text and "rest" in kernel.triton.text
    assert compile_cubin(kernel.triton, "sm_80").frame == 0


def test_batches_share_packed_weights() -> None:
    """What is packed once serves every batch, and is what the tactic packs for each; other zero points pack anew."""
    rng = np.random.default_rng(1)
    small, large = codes(14, (32, 48), 3, 0), codes(14, (32, 48), 3, 7)
    x, y = small.inputs[0], small.outputs[0]
    assert x is not None
    batch = replace(
        small,
        inputs=(replace(x, type=TensorType(x.type.dtype, (128, *x.type.shape[1:]))), *small.inputs[1:]),
        outputs=(replace(y, type=TensorType(y.type.dtype, (128, *y.type.shape[1:]))),),
    )
    constants = {1: rng.integers(-128, 128, (3, 3, 32, 48)).astype(np.int8)}
    tactic, derived = ConvImplicitGemm(), Derived()
    kept: dict[tuple[bool, int], set[int]] = {}
    for w in (small, batch, large):
        for params in tactic.candidates(w):
            arrays = packed(tactic, w, params, constants, derived)
            plain = tactic.prepack(w, params, constants)
            assert len(arrays) == len(plain)
            assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(arrays, plain, strict=True))
            kept.setdefault((w is large, dict(params)["flat"]), set()).add(id(arrays[0]))
    assert all(len(ids) == 1 for ids in kept.values())
    assert kept[False, 0] != kept[True, 0]


def test_kernels_of_a_product_share_its_weights() -> None:
    """Plain loads and copied tiles, but where the packing leaves channels where they are stored from."""
    w = product(4096, 256, 512)
    weights = np.random.default_rng(2).standard_normal((256, 512)).astype(np.float16)
    weights.flags.writeable = False
    seen: dict[tuple[str, int], np.ndarray] = {}
    for tactic in (GemmTiles(), GemmStreamed()):
        assert tactic.accepts(w) is None
        derived = Derived()
        for params in tactic.candidates(w):
            first, *_ = packed(tactic, w, params, {1: weights}, derived)
            assert np.array_equal(first, tactic.prepack(w, params, {1: weights})[0])
            seen[tactic.name, dict(params)["direct"]] = first
    ordered = seen.pop((GemmStreamed.name, register_tiles.BY_PACKING))
    assert len(seen) == 4 and (GemmStreamed.name, register_tiles.BY_COPY) in seen
    shared, *others = seen.values()
    assert all(np.array_equal(shared, a) for a in others) and not np.array_equal(shared, ordered)
