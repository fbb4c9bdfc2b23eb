"""Rendered epilogues and vector math against float64, on every code level."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest

from temper.compile.cc import compile_object, link
from temper.reference.elementwise import REFERENCES
from temper.runtime.cpu import Library
from temper.tactics.cpu.instructions import OPS
from temper.tactics.cpu.render import anchor_declines, body_declines, epilogue_args, epilogue_c, template_text
from temper.tactics.epilogue import Attr, Epilogue, Instr, Operand
from temper.tactics.epilogue_reference import epilogue_reference
from tests.tactics.kernels import ISAS, Buffer

rng = np.random.default_rng(5)

_DRIVER = """
EXPORT void run(void *const *p, const int64_t *v) {
  epi_t e;
  epi_init(&e, p);
  const int64_t images = v[0], pixels = v[1], channels = v[2];
  for (int64_t i = 0; i < images * pixels; i++)
    for (int64_t c = 0; c < channels; c += VL) {
      const int n = channels - c < VL ? (int)(channels - c) : VL;
      const float *x = (const float *)p[0] + i * channels + c;
      stx((float *)p[1] + i * channels + c, epilogue(ldx(x, n), &e, i / pixels, i, c, n), n);
    }
}
"""


def run(e: Epilogue, isa: str, arrays: list[np.ndarray], shape: tuple[int, ...]) -> list[np.ndarray]:
    """The program on arrays of `shape` (operand 0) and its broadcasts, through the anchors' calling convention."""
    channels = shape[-1]
    source = template_text("vec.h", "vmath.h") + epilogue_c(e, first_arg=2, channels=channels) + _DRIVER
    library = Library(link([compile_object(source, isa)]))
    dtypes = {("output", k): e.dtype_of(r) for k, r in enumerate(e.results)}
    outs = {ref: Buffer(np.zeros(shape, d)) for ref, d in dtypes.items()}
    ins = {("operand", i): Buffer(a, e.operands[i].row_stride) for i, a in enumerate(arrays)}
    refs = [("operand", 0), ("output", 0), *epilogue_args(e)]
    pointers = (ctypes.c_void_p * len(refs))(*({**ins, **outs}[r].address for r in refs))
    sizes = (ctypes.c_int64 * 3)(shape[0], math.prod(shape[1:-1]), channels)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(library.function("run"))(
        ctypes.addressof(pointers), ctypes.addressof(sizes)
    )
    assert all(b.intact for b in (*ins.values(), *outs.values()))
    return [outs["output", k].array for k in range(len(e.results))]


def unary(op: str, attrs: tuple[tuple[str, Attr], ...] = (), dtype: str = "float32") -> Epilogue:
    return Epilogue((Operand("float32", (True, True)),), (Instr(op, (0,), dtype, attrs),), (1,))


def everywhere() -> np.ndarray:
    """Float32 values of every magnitude and sign, the special ones, and many in the interesting middle."""
    bits = rng.integers(0, 2**32, 60_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    middle = rng.uniform(-110, 110, 60_000).astype(np.float32)
    small = rng.uniform(-2, 2, 60_000).astype(np.float32)
    edges = np.array(
        [
            0,
            -0.0,
            np.inf,
            -np.inf,
            np.nan,
            1e-45,
            -1e-45,
            1.1754944e-38,
            3.4028235e38,
            -3.4028235e38,
            88.72283,
            88.72284,
            -87.33655,
            -103.97208,
            -103.97209,
            0.5,
            1.5,
            2.5,
            -0.5,
            -2.5,
            8388607.5,
            1,
            -1,
            0.41421357,
            0.925,
            -0.925,
        ],
        np.float32,
    )
    return np.concatenate([edges, bits, middle, small])


def ulps_off(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """|got - want| in ulps of the float32 nearest to want (float64), 0 where both are the same NaN or infinity."""
    with np.errstate(all="ignore"):
        near = want.astype(np.float32)
        unit = np.spacing(np.minimum(np.abs(near), np.float32(3.4e38))).astype(np.float64)
        off = np.abs(got.astype(np.float64) - want) / unit
        off[np.isinf(near) & (got != near)] = (
            np.abs(got.astype(np.float64) / np.copysign(3.4028235e38, near) - 1)[np.isinf(near) & (got != near)] * 2**24
        )
    off[(got == near) | (np.isnan(got) & np.isnan(want))] = 0
    return np.nan_to_num(off, nan=np.inf)


#: Bound in ulps, and the absolute error allowed besides, where the exact result vanishes by cancellation or underflow.
BOUNDS = {
    "Exp": (1.5, 0.0),
    "Log": (1.5, 0.0),
    "Sigmoid": (3.0, 1.2e-38),
    "Tanh": (3.0, 0.0),
    "Erf": (2.0, 0.0),
    "Softplus": (3.0, 1e-44),
    "Silu": (3.5, 1.1e-36),
    "Mish": (6.0, 1e-42),
    "Gelu": (10.0, 1e-37),
    "Softsign": (1.5, 0.0),
    "Sqrt": (0.5, 0.0),
    "Reciprocal": (0.5, 0.0),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", BOUNDS)
def test_functions_over_the_whole_range(op: str, isa: str) -> None:
    x = everywhere().reshape(-1, 2)
    with np.errstate(all="ignore"):
        want = np.asarray(REFERENCES[op]([x.astype(np.float64)], {})[0], np.float64)
    (got,) = run(unary(op), isa, [x], x.shape)
    limit, floor = BOUNDS[op]
    off = ulps_off(got, want)
    with np.errstate(all="ignore"):
        bad = (off > limit) & ~(np.abs(got - want) <= floor)
    if op in ("Silu", "Mish", "Gelu"):
        bad &= x != -np.inf  # -inf * 0: NaN or -0, depending on the form
    assert not bad.any(), (x[bad][:5], got[bad][:5], want[bad][:5], off[bad].max())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["Sin", "Cos"])
def test_trigonometry_of_every_size(op: str, isa: str) -> None:
    powers = np.exp2(rng.uniform(-10, 127.99, 20_000)) * rng.choice([-1, 1], 20_000)
    edges = [1e6, -1e6, 2.0**20, 16367173.0 * 2.0**72, np.finfo(np.float32).max]  # the fourth is nearest to a multiple
    x = np.concatenate([rng.uniform(-10, 10, 5000), rng.uniform(-1e6, 1e6, 5000), powers, edges, [0, -0.0, 1]])
    x = x.astype(np.float32).reshape(-1, 4)
    (got,) = run(unary(op), isa, [x], x.shape)
    want = getattr(np, op.lower())(x.astype(np.float64))
    assert np.abs(got - want).max() < 1.2e-7


@pytest.mark.parametrize("isa", ISAS)
def test_power(isa: str) -> None:
    special = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 2, -2, 3, 0.5, -0.5, 1e-40, -3, 1e30], np.float32)
    x, y = (a.ravel() for a in np.meshgrid(special, special))
    x = np.concatenate(
        [x, rng.uniform(0, 50, 20_000).astype(np.float32), rng.uniform(-20, 20, 5_000).astype(np.float32)]
    )
    y = np.concatenate(
        [y, rng.uniform(-20, 20, 20_000).astype(np.float32), rng.integers(-9, 9, 5_000).astype(np.float32)]
    )
    e = Epilogue((Operand("float32", (True, True)),) * 2, (Instr("Pow", (0, 1), "float32"),), (2,))
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), y.astype(np.float64))[:, None]
    (got,) = run(e, isa, [x[:, None], y[:, None]], (len(x), 1))
    off = ulps_off(got, want)
    assert off.max() <= 1, (x[off.argmax()], y[off.argmax()], got.ravel()[off.argmax()], want.ravel()[off.argmax()])


EXACT = [
    ("Relu", ()),
    ("Abs", ()),
    ("Neg", ()),
    ("Sign", ()),
    ("Floor", ()),
    ("Ceil", ()),
    ("Round", ()),
    ("Identity", ()),
    ("Clip", (("max", 6.0), ("min", 0.0))),
    ("Clip", (("min", -1.5),)),
    ("Clip", (("max", 2.5),)),
    ("LeakyRelu", (("alpha", 0.1),)),
    ("ThresholdedRelu", (("alpha", 0.7),)),
    ("HardSigmoid", (("alpha", 0.2), ("beta", 0.5))),
    ("HardSwish", ()),
    ("Shrink", (("bias", 0.25), ("lambd", 0.5))),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("op", "attrs"), EXACT)
def test_simple_functions(op: str, attrs: tuple, isa: str) -> None:
    x = everywhere().reshape(-1, 2)
    with np.errstate(all="ignore"):
        want = REFERENCES[op]([x], dict(attrs))[0]
        (got,) = run(unary(op, attrs), isa, [x], x.shape)
        if op in ("LeakyRelu", "HardSigmoid", "HardSwish", "Shrink"):  # the reference rounds once, the kernel each step
            near = np.abs(got - want.astype(np.float64)) <= 4e-7 * np.maximum(np.abs(want), 1) + 1e-6 * (
                op == "HardSwish"
            )
        else:
            near = got == want
    near |= (np.isnan(got) & np.isnan(want)) | (got == want)
    if op == "ThresholdedRelu":
        near |= np.isnan(x)
    assert near.all(), (x[~near][:4], got[~near][:4], want[~near][:4])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("op", "attrs"),
    [("Elu", (("alpha", 0.7),)), ("Selu", ()), ("Celu", (("alpha", 1.5),)), ("Gelu", (("approximate", "tanh"),))],
)
def test_parametrised_functions(op: str, attrs: tuple, isa: str) -> None:
    x = rng.uniform(-20, 20, (4000, 3)).astype(np.float32)
    want = np.asarray(REFERENCES[op]([x.astype(np.float64)], dict(attrs))[0])
    (got,) = run(unary(op, attrs), isa, [x], x.shape)
    # GELU's exponent grows as x^3, and its rounding error with it
    growth = 1 + 0.3 * np.abs(x) ** 3 if op == "Gelu" else 1
    assert (np.abs(got - want) <= 6e-7 * np.abs(want) * growth + 1e-36).all()


@pytest.mark.parametrize("exponent", [-1.0, 0.5, 1.0, 2.0, 3.0, 4.0, 1.7])
def test_constant_exponents(exponent: float) -> None:
    x = rng.uniform(0.1, 9, (50, 5)).astype(np.float32)
    (got,) = run(unary("Pow", (("exponent", exponent),)), "avx512", [x], x.shape)
    assert ulps_off(got, x.astype(np.float64) ** float(np.float32(exponent))).max() <= 3  # three roundings at most


def test_nan_propagates_through_max_and_min() -> None:
    nan = np.nan
    a = np.array([[nan, 1, nan, 2, -0.0]], np.float32)
    b = np.array([[1, nan, nan, 3, 5]], np.float32)
    for op, fn in (("Max", np.maximum), ("Min", np.minimum)):
        e = Epilogue((Operand("float32", (True, True)),) * 2, (Instr(op, (0, 1), "float32"),), (2,))
        for isa in ISAS:
            assert np.array_equal(run(e, isa, [a, b], a.shape)[0], fn(a, b), equal_nan=True)


@pytest.mark.parametrize("isa", ISAS)
def test_every_operand_kind_and_extra_results(isa: str) -> None:
    masks = [
        (True,) * 4,
        (False, False, False, True),
        (True, False, False, True),
        (False,) * 4,
        (True, True, True, False),
        (True, False, False, False),
    ]
    operands = (
        Operand("float32", (True,) * 4),
        *(Operand("float32", m, 40 if all(m) else None) for m in masks),
        Operand("bool", (True,) * 4),
        Operand("int32", (False, False, False, True)),
    )
    n = len(operands)
    instrs = [Instr("Add", (0, 1), "float32")]
    instrs += [Instr("Mul" if k % 2 else "Sub", (n + k - 1, k + 1), "float32") for k in range(1, 6)]
    instrs += [
        Instr("Cast", (n - 1,), "float32"),
        Instr("Where", (n - 2, n + 5, n + 6), "float32"),
        Instr("Greater", (n + 7, 2), "bool"),
        Instr("Cast", (n + 7,), "int32"),
    ]
    e = Epilogue(operands, tuple(instrs), (n + 7, n + 8, n + 9, n))
    assert anchor_declines(e) is None
    shape = (2, 3, 2, 37)
    arrays: list[np.ndarray] = []
    for o in operands:
        s = tuple(d if m else 1 for d, m in zip(shape, o.mask, strict=True))
        data = 9 * rng.standard_normal(s)
        arrays.append(data > 0 if o.dtype == "bool" else data.astype(o.dtype))
    for got, want in zip(run(e, isa, arrays, shape), epilogue_reference(e, arrays), strict=True):
        assert got.dtype == want.dtype and np.array_equal(got, want)


def test_declines_with_a_reason() -> None:
    full = Operand("float32", (True,) * 4)
    general = Epilogue((full, Operand("float32", (False, True, True, True))), (Instr("Add", (0, 1), "float32"),), (2,))
    assert anchor_declines(general) == "operand 1 is broadcast along axes [0]"
    wide = Epilogue((full,), (Instr("Cast", (0,), "int64"), Instr("Cast", (1,), "float32")), (2,))
    assert anchor_declines(wide) == "Cast gives int64"
    stored = Epilogue((full,), (Instr("Cast", (0,), "int32"),), (1,))
    assert anchor_declines(stored) == "the first result is int32, not float32"
    unknown = Epilogue((full,), (Instr("Asinh", (0,), "float32"),), (1,))
    assert body_declines(unknown, vector=True) == "Asinh on (float32) has no C form"
    with pytest.raises(ValueError, match="has no C form"):
        epilogue_c(unknown, first_arg=0, channels=4)


def test_every_op_of_the_table_has_a_reference() -> None:
    assert not {op for op in OPS if op not in REFERENCES and op != "Sum"}
