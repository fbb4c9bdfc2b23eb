"""Triton kernels against the numpy reference through Triton's interpreter, and their cubins; no GPU takes part."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from temper.compile.cubin import read_cubin
from temper.compile.triton import CUDA_ISAS, TritonSource, compile_cubin
from temper.ir.dims import Dim, DimLike, evaluate
from temper.ir.types import TensorType
from temper.reference import REFERENCES
from temper.tactics.base import Slot, Workload
from temper.tactics.cuda.conv import ConvImplicitGemm
from temper.tactics.cuda.epilogue_triton import (
    epilogue_declines,
    epilogue_helpers,
    epilogue_parameters,
    epilogue_statements,
)
from temper.tactics.cuda.instructions import OPS
from temper.tactics.epilogue import Epilogue, Instr, Operand
from temper.tactics.epilogue_reference import epilogue_reference
from tests.tactics.cuda.interpret import Job, interpret
from tests.tactics.kernels import bias_relu_scale

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be interpreted or compiled", allow_module_level=True)

TACTIC = ConvImplicitGemm()
N, H = Dim.symbol("N"), Dim.symbol("H")
FULL, CHANNEL, SCALAR = (True,) * 4, (False, False, False, True), (False,) * 4
PIXEL, IMAGE, IMAGE_CHANNEL = (True, True, True, False), (True, False, False, False), (True, False, False, True)
F32 = Operand("float32", FULL)
#: Elements before and after every tensor that no kernel may write, and whose values no result may depend on.
GUARD = 64


def add_relu(operand: Operand) -> Epilogue:
    return Epilogue((F32, operand), (Instr("Add", (0, 1), "float32"), Instr("Relu", (2,), "float32")), (3,))


SILU = Epilogue((F32,), (Instr("Silu", (0,), "float32"),), (1,))
CLIP_HALF = Epilogue(
    (F32,), (Instr("Clip", (0,), "float32", (("max", 6.0), ("min", 0.0))), Instr("Cast", (1,), "float16")), (2,)
)
#: Every operand kind, a view, masks in memory, integers, half precision, and results of four types.
MIXED = Epilogue(
    (
        F32,
        Operand("float32", SCALAR),
        Operand("float32", PIXEL),
        Operand("float32", IMAGE),
        Operand("bool", FULL),
        Operand("int32", CHANNEL),
        Operand("float16", IMAGE_CHANNEL),
        Operand("float16", FULL, 40),
    ),
    (
        Instr("Mul", (0, 1), "float32"),  # 8
        Instr("Add", (8, 2), "float32"),
        Instr("Sub", (9, 3), "float32"),  # 10
        Instr("Cast", (5,), "float32"),
        Instr("Where", (4, 10, 11), "float32"),  # 12
        Instr("Mul", (6, 7), "float16"),
        Instr("Cast", (12,), "float16"),  # 14
        Instr("Add", (13, 14), "float16"),
        Instr("Greater", (12, 9), "bool"),  # 16
        Instr("Constant", (), "float32", (("value", 0.75),)),
        Instr("Max", (12, 17, 2), "float32"),  # 18
        Instr("BitwiseAnd", (5, 5), "int32"),
    ),
    (18, 15, 16, 12, 19),
)


@dataclass(frozen=True)
class Case:
    """A convolution of x [n, h, w, ic] (channels in views of stride xld) and its epilogue."""

    name: str
    epilogue: Epilogue
    dtype: str = "float16"
    n: DimLike = 2
    size: tuple[DimLike, DimLike] = (11, 9)
    out: tuple[DimLike, DimLike] = (11, 9)
    channels: tuple[int, int] = (24, 20)
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    bias: bool = False
    xld: int | None = None
    old: int | None = None
    env: Mapping[str, int] = field(default_factory=dict)
    choice: int = 0

    def workload(self, isa: str = "sm_90") -> Workload:
        ic, oc = self.channels
        attrs = (
            ("channels_last", 1),
            ("dilations", self.dilations),
            ("group", 1),
            ("pads", self.pads),
            ("strides", self.strides),
        )
        x = Slot(TensorType(self.dtype, (self.n, *self.size, ic)), self.xld)
        weights = Slot(TensorType(self.dtype, (*self.kernel, ic, oc)))
        bias = Slot(TensorType("float32", (oc,))) if self.bias else None
        outputs = tuple(
            Slot(TensorType(self.epilogue.dtype_of(r), (self.n, *self.out, oc)), self.old)
            for r in self.epilogue.results
        )
        return Workload("Conv", attrs, (x, weights, bias), (False, True, self.bias), outputs, self.epilogue, isa)


CASES = [
    Case("strided_dilated", add_relu(Operand("float32", CHANNEL)), out=(6, 9), strides=(2, 1), dilations=(1, 2),
         pads=(1, 2, 1, 2)),
    Case("large_tile", bias_relu_scale(), channels=(72, 65), bias=True, choice=-1),
    Case("few_channels", SILU, channels=(3, 33), kernel=(7, 7), strides=(2, 2), out=(6, 5), pads=(3,) * 4, bias=True),
    Case("odd_channels", CLIP_HALF, channels=(13, 17), kernel=(2, 3), out=(12, 8), pads=(0, 1, 2, 0)),
    Case("pointwise_views", add_relu(replace(F32, row_stride=29)), dtype="float32", channels=(37, 19), kernel=(1, 1),
         pads=(0,) * 4, strides=(2, 2), out=(6, 5), xld=50, old=23),
    Case("symbolic", bias_relu_scale(), dtype="float32", n=N, size=(H, 7), out=((H - 1) // 2 + 1, 3), channels=(10, 40),
         kernel=(5, 3), strides=(2, 2), pads=(2, 0, 2, 0), env={"N": 3, "H": 8}),
    Case("mixed", MIXED, size=(5, 4), out=(5, 4), channels=(16, 18), bias=True),
]  # fmt: skip


class Memory:
    """The arrays of all jobs: flat, with guards around the tensor; rows of a view lie a stride apart."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.arrays: dict[str, np.ndarray] = {}
        self.places: dict[str, tuple[tuple[int, ...], int]] = {}

    def place(self, name: str, tensor: np.ndarray, row_stride: int | None = None) -> tuple[str, int]:
        """Copies a tensor in; returns the argument of a job."""
        row = tensor.shape[-1]
        stride = row_stride or row
        data = tensor.astype(np.int8) if tensor.dtype == bool else tensor
        sentinel = np.nan if data.dtype.kind == "f" else 85
        flat = np.full(2 * GUARD + tensor.size // row * stride, sentinel, data.dtype)
        self.places[name] = (tensor.shape, stride)
        self.arrays[name] = flat
        self._rows(flat, name)[...] = data.reshape(-1, row)
        return name, GUARD

    def _rows(self, flat: np.ndarray, name: str) -> np.ndarray:
        shape, stride = self.places[name]
        return flat[GUARD:-GUARD].reshape(-1, stride)[:, : shape[-1]]

    def read(self, results: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        """The tensor after the jobs, checked to have intact guards."""
        flat, before = results[name].copy(), self.arrays[name].copy()
        tensor = self._rows(flat, name).reshape(self.places[name][0]).copy()
        for array in (flat, before):
            self._rows(array, name)[...] = 0
        assert np.array_equal(flat, before, equal_nan=flat.dtype.kind == "f"), f"{name}: wrote outside the tensor"
        return tensor

    def sample(self, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        if dtype == "bool":
            return self.rng.random(shape) < 0.5
        if dtype == "int32":
            return self.rng.integers(-50, 50, shape, np.int32)
        return self.rng.standard_normal(shape, np.float32).astype(dtype)


@dataclass(frozen=True)
class Run:
    outputs: list[np.ndarray]
    want: list[np.ndarray]
    bounds: list[np.ndarray]


def place_case(case: Case, memory: Memory) -> tuple[Job, list[np.ndarray], list[np.ndarray]]:
    """A case's job, with the reference's results and the bounds of their error."""
    w, e = case.workload(), case.epilogue
    params = list(TACTIC.candidates(w))[case.choice]
    kernel = TACTIC.generate(w, params, "conv")
    inputs = [
        None if slot is None else memory.sample(slot.type.dtype, tuple(evaluate(d, case.env) for d in slot.type.shape))
        for slot in w.inputs
    ]
    out = tuple(evaluate(d, case.env) for d in w.outputs[0].type.shape)
    operands = [
        memory.sample(o.dtype, tuple(d if m else 1 for d, m in zip(out, o.mask, strict=True))) for o in e.operands
    ]
    constants = {i: a for i, a in enumerate(inputs) if i and a is not None}
    placed = {("input", 0): memory.place(f"{case.name}.x", inputs[0], case.xld)}  # type: ignore[arg-type]
    for i, a in enumerate(TACTIC.prepack(w, params, constants)):
        placed["packed", i] = memory.place(f"{case.name}.packed{i}", a)
    for i, (o, a) in enumerate(zip(e.operands, operands, strict=True)):
        placed["operand", i] = memory.place(f"{case.name}.q{i}", a, o.row_stride)
    for k, r in enumerate(e.results):
        placed["output", k] = memory.place(f"{case.name}.o{k}", np.full(out, 85, e.dtype_of(r)), case.old)
    arguments = (*(placed[ref] for ref in kernel.args), *(case.env[s] for s in kernel.symbols))
    job = Job(kernel.source, "conv", evaluate(kernel.grid, case.env), arguments)

    exact = [None if a is None else a.astype(np.float32) for a in inputs]
    attrs = dict(w.attrs)
    acc = REFERENCES["Conv"](exact, attrs)[0]
    size = REFERENCES["Conv"]([None if a is None else np.abs(a) for a in exact], attrs)[0]
    terms = case.kernel[0] * case.kernel[1] * case.channels[0]
    slack = np.finfo(np.float32).eps * (2 * np.sqrt(terms) + 8) * size
    low, want, high = (
        epilogue_reference(e, [(acc + d).astype(np.float32), *operands[1:]]) for d in (-slack, 0 * slack, slack)
    )
    bounds = []
    for a, b, c in zip(low, want, high, strict=True):
        if b.dtype.kind != "f":
            bounds.append(np.zeros(b.shape))
            continue
        spread = np.maximum(np.abs(c.astype(np.float64) - b), np.abs(a.astype(np.float64) - b))
        bounds.append(2 * spread + 4 * np.finfo(b.dtype).eps * (np.abs(b.astype(np.float64)) + 1e-3))
    return job, want, bounds


def unary_program(dtype: str) -> tuple[Epilogue, list[Instr]]:
    """Every one-argument function of the table, and of the ops with attributes, each stored as a result of its own."""
    instrs = [Instr(op, (0,), dtype) for op, t in OPS.items() if t.arity == 1 and dtype in t.takes and op != "IsNaN"]
    instrs += [Instr("Gelu", (0,), dtype), Instr("Gelu", (0,), dtype, (("approximate", "tanh"),))]
    instrs += [Instr("Pow", (0,), dtype, (("exponent", p),)) for p in (-1.0, 1.0, 2.0, 3.0, 4.0)]
    instrs += [Instr("Clip", (0,), dtype, (("min", -1.25),)), Instr("Clip", (0,), dtype, (("max", float("inf")),))]
    instrs += [Instr("LeakyRelu", (0,), dtype, (("alpha", 0.3),)), Instr("Elu", (0,), dtype, (("alpha", 0.7),))]
    instrs += [
        Instr("Celu", (0,), dtype, (("alpha", 1.5),)),
        Instr("Shrink", (0,), dtype, (("bias", 0.25), ("lambd", 0.5))),
    ]
    return Epilogue((Operand(dtype, (True, True)),), tuple(instrs), tuple(range(1, len(instrs) + 1))), instrs


def binary_program() -> tuple[Epilogue, list[Instr]]:
    """Every two-argument op of the table on float32, and Where on a comparison."""
    comparisons = {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"}
    ops = [op for op, t in OPS.items() if t.arity in (2, -1) and "float32" in t.takes and op != "Sum"]
    instrs = [Instr(op, (0, 1), "bool" if op in comparisons else "float32") for op in ops]
    less = 2 + ops.index("Less")
    instrs += [Instr("IsNaN", (0,), "bool"), Instr("Not", (less,), "bool"), Instr("Xor", (less, 2 + len(ops)), "bool")]
    instrs += [Instr("Where", (less, 0, 1), "float32"), Instr("Cast", (0,), "int32"), Instr("Cast", (less,), "float32")]
    operands = (Operand("float32", (True, True)),) * 2
    return Epilogue(operands, tuple(instrs), tuple(range(2, len(instrs) + 2))), instrs


def program_source(e: Epilogue, rows: int, columns: int) -> TritonSource:
    """A kernel that applies a program to an array of rows x columns, one tile of 32x16 a block."""
    dtype = e.operands[0].dtype
    pointers = epilogue_parameters(e)
    names = ["x", *(p.name for p in pointers)]
    head = f"""
    tile = tl.program_id(0)
    row = (tile * 32 + tl.arange(0, 32)).to(tl.int64)
    image = row
    channel = tl.arange(0, 16)
    row_ok = row < {rows}
    channel_ok = channel < {columns}
    live = row_ok[:, None] & channel_ok[None, :]
    v0 = tl.load(x + row[:, None] * {columns} + channel[None, :], mask=live)
"""
    body = "".join(f"    {line}\n" for line in epilogue_statements(e, channels=columns))
    text = "import triton\nimport triton.language as tl\n" + epilogue_helpers(e)
    text += f"\n\n@triton.jit\ndef program({', '.join(names)}):{head}{body}"
    signature = (("x", "*fp16" if dtype == "float16" else "*fp32"), *((p.name, p.type) for p in pointers))
    return TritonSource(text, "program", signature, frozenset(names))


PROGRAMS = {"unary": unary_program("float32"), "unary_half": unary_program("float16"), "binary": binary_program()}


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Every case and program run by the interpreter, in one process."""
    memory = Memory(np.random.default_rng(3))
    jobs, expected = [], {}
    for case in CASES:
        job, want, bounds = place_case(case, memory)
        jobs.append(job)
        expected[case.name] = (want, bounds)
    for name, (e, _) in PROGRAMS.items():
        operands = [special_values(memory.rng, o.dtype) for o in e.operands]
        refs = {("operand", i): memory.place(f"{name}.q{i}", a) for i, a in enumerate(operands)}
        for k, r in enumerate(e.results):
            refs["output", k] = memory.place(f"{name}.o{k}", np.full(operands[0].shape, 85, e.dtype_of(r)))
        arguments = (refs["operand", 0], *(refs[p.ref] for p in epilogue_parameters(e)))
        rows, columns = operands[0].shape
        jobs.append(Job(program_source(e, rows, columns).text, "program", -(-rows // 32), arguments))
        wide = [a.astype(np.float64) for a in operands]  # the functions' exact values
        want = epilogue_reference(e, operands)
        for i, (instr, r) in enumerate(zip(e.instrs, e.results, strict=True)):
            if want[i].dtype.kind == "f" and instr.op not in ("Where", "Cast", "Round") and name != "binary":
                want[i] = epilogue_reference(replace(e, instrs=tuple(_wide(j) for j in e.instrs), results=(r,)), wide)[
                    0
                ]
        expected[name] = (want, [np.zeros(0)] * len(want))
    results = interpret(jobs, memory.arrays, tmp_path_factory.mktemp("interpret"))
    for name in memory.arrays:
        if ".o" not in name:
            assert np.array_equal(
                results[name], memory.arrays[name], equal_nan=memory.arrays[name].dtype.kind == "f"
            ), name
    return {
        name: Run([memory.read(results, f"{name}.o{k}") for k in range(len(want))], want, bounds)
        for name, (want, bounds) in expected.items()
    }


def _wide(instr: Instr) -> Instr:
    return replace(instr, dtype="float64")


def special_values(rng: np.random.Generator, dtype: str) -> np.ndarray:
    """[rows, 13] values of all sizes, among them zeros, infinities, NaN and halves."""
    edges = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        0.5,
        1.5,
        2.5,
        -0.5,
        -2.5,
        1.0,
        -1.0,
        1e-7,
        -1e-7,
        0.347,
        -0.347,
        -1.25,
        88.0,
        -86.0,
    ]
    middle = rng.uniform(-20, 20, 900)
    small = rng.uniform(-1, 1, 394 - len(edges))
    return np.concatenate([edges, middle, small])[: 99 * 13].astype(dtype).reshape(-1, 13)


@pytest.mark.parametrize("name", [c.name for c in CASES])
def test_convolution_and_epilogue(interpreted: Mapping[str, Run], name: str) -> None:
    run = interpreted[name]
    for got, want, bound in zip(run.outputs, run.want, run.bounds, strict=True):
        if want.dtype == bool:  # a comparison may tip where its sides are within the products' rounding
            assert np.mean(got != want) < 0.01
            continue
        assert got.dtype == want.dtype and np.isfinite(want).all()
        off = np.abs(got.astype(np.float64) - want) - bound
        assert (off <= 0).all(), (off.max(), np.unravel_index(int(off.argmax()), off.shape))


@pytest.mark.parametrize("name", ["unary", "unary_half"])
def test_functions(interpreted: Mapping[str, Run], name: str) -> None:
    run, (_, instrs) = interpreted[name], PROGRAMS[name]
    eps, floor = (2.0**-23, 1e-37) if name == "unary" else (2.0**-10, 6e-8)
    for instr, got, want in zip(instrs, run.outputs, run.want, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            near = want.astype(got.dtype)
            off = np.abs(got.astype(np.float64) - want)
            ok = off <= 12 * eps * np.abs(want) + floor
        ok |= (got == near) | (np.isnan(got) & np.isnan(want))
        if instr.op in ("Silu", "Mish", "Gelu"):
            ok |= np.isnan(want) | ~np.isfinite(near)  # -inf * 0: NaN or -0, depending on the form
        if instr.op == "Gelu":  # its exponent grows as x^2, or x^3; not every interpreter fuses tl.fma
            ok |= off < (1e-8 if instr.attrs else 60 * eps * np.abs(want))
            if instr.dtype == "float16" and not instr.attrs:
                ok |= off <= 2.0**-14 * (np.abs(want) + 2.0**-10) + eps * np.abs(want)
        if instr.op in ("HardSwish", "HardSigmoid"):
            ok |= off < 2 * eps  # cancels where the line meets zero
        assert ok.all(), (instr, got[~ok][:4], want[~ok][:4])


def test_binary_ops(interpreted: Mapping[str, Run]) -> None:
    run, (_, instrs) = interpreted["binary"], PROGRAMS["binary"]
    for instr, got, want in zip(instrs, run.outputs, run.want, strict=True):
        same = (got == want) | ((got != got) & (want != want))
        if instr.op == "Cast" and instr.dtype == "int32":
            same |= np.abs(want.astype(np.int64)) >= 2**31 - 1  # infinities and NaN have no integer
        assert same.all(), (instr, got[~same][:4], want[~same][:4])


def test_every_program_compiles() -> None:
    assert [epilogue_declines(e) for e, _ in PROGRAMS.values()] == [None] * len(PROGRAMS)
    for name in ("unary", "binary"):
        e, _ = PROGRAMS[name]
        assert compile_cubin(program_source(e, 99, 13), "sm_90").entry == "program"


@pytest.mark.parametrize("isa", CUDA_ISAS)
def test_cubin_of_a_convolution(isa: str) -> None:
    case = CASES[0]
    w = case.workload(isa)
    kernel = TACTIC.generate(w, TACTIC.candidates(w)[0], "conv_3x3")
    cubin = compile_cubin(kernel.triton, isa)
    assert cubin.data[:4] == b"\x7fELF" and [k.name for k in read_cubin(cubin.data)] == ["conv_3x3"]
    assert cubin.frame == 0, "spills registers"
    assert read_cubin(cubin.data)[0].params == (8,) * (len(kernel.args) + cubin.scratch)
    assert 0 < cubin.registers <= 255 and 0 < cubin.shared <= 227 * 1024 and cubin.threads % 32 == 0


def test_a_large_tile_does_not_spill() -> None:
    case = replace(
        CASES[0], n=N, size=(28, 28), out=(28, 28), channels=(128, 128), strides=(1, 1), dilations=(1, 1), pads=(1,) * 4
    )
    w = case.workload("sm_90")
    params = next(p for p in TACTIC.candidates(w) if dict(p)["bm"] * dict(p)["bn"] == 128 * 128)
    kernel = TACTIC.generate(w, params, "conv")
    cubin = compile_cubin(kernel.triton, "sm_90")
    assert cubin.frame == 0
    assert cubin.signature[-1] == ("dim_N", "i32") and read_cubin(cubin.data)[0].params[len(kernel.args)] == 4


def test_packed_weights_do_not_depend_on_the_blocking() -> None:
    w = CASES[3].workload()
    weights = np.random.default_rng(1).standard_normal((2, 3, 13, 17)).astype(np.float16)
    packs = {TACTIC.prepack(w, p, {1: weights})[0].tobytes() for p in TACTIC.candidates(w)}
    assert len(packs) == 1 and len(TACTIC.candidates(w)) > 1


def test_source_is_the_same_every_time() -> None:
    w = CASES[1].workload()
    p = TACTIC.candidates(w)[0]
    assert TACTIC.generate(w, p, "k").source == TACTIC.generate(w, p, "k").source
    assert TACTIC.generate(w, p, "k").source.count("def at_least") == 1


def test_declines_with_a_reason() -> None:
    w = CASES[0].workload()
    assert TACTIC.accepts(w) is None
    assert TACTIC.accepts(replace(w, op="MatMul")) == "computes Conv, ConvInt8, not MatMul"
    assert TACTIC.accepts(replace(w, isa="avx2")) == "no such GPU level: avx2"
    assert TACTIC.accepts(replace(w, constant=(False, False, False))) == "the weights must be constant to be packed"
    double = replace(CASES[0], dtype="float64").workload()
    assert "not float64 with weights of float64" in str(TACTIC.accepts(double))
    x = Slot(TensorType("float16", (2, 11, 9, 48)))
    grouped = replace(w, inputs=(x, *w.inputs[1:]), attrs=tuple((k, 2 if k == "group" else v) for k, v in w.attrs))
    assert "group" in str(TACTIC.accepts(grouped))

    def declined(*instrs: Instr, operand: Operand = F32) -> str | None:
        return epilogue_declines(Epilogue((F32, operand), instrs, (2,)))

    assert declined(Instr("BitShift", (0, 1), "float32")) == "BitShift on (float32, float32) has no Triton form"
    assert declined(Instr("Cast", (0,), "string")) == "Cast gives string"
    half = declined(Instr("Add", (0, 1), "float32"), operand=Operand("float16", FULL))
    assert half == "Add on (float32, float16) has no Triton form"
    general = declined(Instr("Add", (0, 1), "float32"), operand=Operand("float32", (False, True, True, True)))
    assert general == "operand 1 is broadcast along axes [0]"
    with pytest.raises(ValueError, match="no Triton form"):
        epilogue_statements(Epilogue((F32,), (Instr("Not", (0,), "bool"),), (1,)), channels=4)


def test_every_op_has_a_reference_and_a_c_form() -> None:
    from temper.tactics.cpu.instructions import OPS as C_OPS

    assert set(OPS) <= set(C_OPS) and {op for op in OPS if op not in REFERENCES} <= {"Sum"}
    assert {op for op, t in C_OPS.items() if "float32" in t.takes} - set(OPS) == {"Pow"}
