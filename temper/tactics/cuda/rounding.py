"""Triton functions between float32 and 8-bit codes, and GELU approximated no more finely than codes can show.

PTX's packed conversion saturates; with a rounding conversion before it the assembler makes one instruction for two
elements (F2IP), where minimum, maximum, addition and permutations took 3.75 per element. In the other direction, one
permutation puts a code into the lowest bits of the float 2^23.
"""

from __future__ import annotations

from collections.abc import Mapping

from temper.tactics.epilogue import GELU_UNIT

#: Assembly that rounds four numbers half to even and cuts them to int8, perhaps plus 128 as uint8. NaN gives 0. Threads
#: with fewer numbers fill up with undefined ones, of which ptxas makes an instruction that does not exist where it
#: packs unsigned codes (F2IP.U8 without .RELU): so none are packed.
ASSEMBLY: Mapping[str, str] = {
    kind: "{ .reg .b32 a, b, c, d, t; "
    "cvt.rni.s32.f32 a, $1; cvt.rni.s32.f32 b, $2; cvt.rni.s32.f32 c, $3; cvt.rni.s32.f32 d, $4; "
    f"cvt.pack.sat.s8.s32.b32 t, d, c, 0; cvt.pack.sat.s8.s32.b32 $0, b, a, t;{flip} }}"
    for kind, flip in (("int8", ""), ("uint8", " xor.b32 $0, $0, 0x80808080;"))
}
#: Assembly that makes 2^23 plus four codes, of int8 and 128 more, float32 numbers.
NUMBERS: Mapping[str, str] = {
    kind: "{ .reg .b32 t; "
    + start
    + " ".join(f"prmt.b32 ${k}, t, 0x4B000000, 0x754{k};" for k in range(4))
    + " }"
    for kind, start in (("int8", "xor.b32 t, $4, 0x80808080; "), ("uint8", "mov.b32 t, $4; "))
}
#: Assembly that makes four signed codes halves: each is the low byte of 1024 + 128 + itself.
HALVES_OF_CODES = (
    "{ .reg .b32 t, c, a, b; xor.b32 t, $2, 0x80808080; mov.b32 c, 0x64806480; "
    "prmt.b32 a, t, 0x64646464, 0x4140; prmt.b32 b, t, 0x64646464, 0x4342; "
    "sub.rn.f16x2 $0, a, c; sub.rn.f16x2 $1, b, c; }"
)
#: Assembly that makes two codes halves: each is the low half of a word, as 1024 and itself.
HALVES_OF_WORDS = (
    "{ .reg .b32 t, c; mov.b32 c, 0x64006400; prmt.b32 t, $1, $2, 0x5410; sub.rn.f16x2 $0, t, c; }"
)
#: A sum of a product, cut to [0, 1].
SATURATED = "fma.rn.sat.f32 $0, $1, $2, $3;"

#: Names of the functions in `HELPERS` that give codes of a type with a zero point.
CODED: Mapping[tuple[str, int], str] = {
    ("int8", 0): "whole_int8",
    ("uint8", 0): "whole_uint8",
    ("int8", -128): "moved_int8",
    ("uint8", 128): "moved_uint8",
}

#: GELU for codes is x * (1/2 + x P(x^2)), the factor cut to [0, 1]: coefficients of P, minimax for the result's error
#: over |x| <= 3.9 (a linear program on 1500 points), which is at most 1.9e-4 everywhere, less than half of the least
#: unit (`GELU_UNIT`). The last one is positive, so that beyond the factor is cut on the right side.
_GELU = (
    0.39808565378189087, -0.06486952304840088, 0.008913809433579445, -0.00084451655857265, 5.123771552462131e-05,
    -1.7705158370517893e-06, 2.627185402559462e-08,
)  # fmt: skip

#: Whole numbers less 128, before they are cut: 1.5 * 2^23 has no fraction, and what is too large for it is cut anyway.
_LESS = "(x + 12582912.0) - 12583040.0"

_STEPS = "".join(f"    p = tl.fma(t, p, {c!r})\n" for c in reversed(_GELU[:-2]))

#: In an order in which each calls only earlier ones.
HELPERS: Mapping[str, str] = {
    **{
        name: f"""
def {name}(x):
    # NaN gives the {"middle code" if less else "zero point"}
    return tl.inline_asm_elementwise(
        "{ASSEMBLY[kind]}",
        "=r,r,r,r,r", [{_LESS if less else "x"}], dtype=tl.{kind}, is_pure=True, pack=4,
    )
"""
        for (kind, zero), name in CODED.items()
        for less in (zero == (-128 if kind == "int8" else 0),)
    },
    "above": f"""
def above(x):
    # 2^23 + x, or 2^23 + 128 + x of signed codes
    if x.dtype == tl.uint8:
        y = tl.inline_asm_elementwise(
            "{NUMBERS["uint8"]}", "=r,=r,=r,=r,r", [x], dtype=tl.float32, is_pure=True, pack=4,
        )
    else:
        y = tl.inline_asm_elementwise(
            "{NUMBERS["int8"]}", "=r,=r,=r,=r,r", [x], dtype=tl.float32, is_pure=True, pack=4,
        )
    return y
""",
    "code_number": """
def code_number(x):
    return above(x) - (8388608.0 if x.dtype == tl.uint8 else 8388736.0)
""",
    "code_less": """
def code_less(x, zero):
    # x - zero rounded once: what float32 loses of the zero point is taken off exactly
    near = zero.to(tl.float32)
    lost = (zero - near.to(tl.int32)).to(tl.float32)
    return (above(x) - (lost + (8388608.0 if x.dtype == tl.uint8 else 8388736.0))) - near
""",
    "code_near": """
def code_near(x, zero):
    # x - zero, |zero| < 2^20: exact
    return above(x) - (zero.to(tl.float32) + (8388608.0 if x.dtype == tl.uint8 else 8388736.0))
""",
    "gelu_codes": f"""
def gelu_codes(x):
    # to 1.9e-4, for codes whose unit is at least {GELU_UNIT!r}: no exponential, no quotient
    t = x * x
    p = tl.fma(t, tl.full(x.shape, {_GELU[-1]!r}, tl.float32), {_GELU[-2]!r})
{_STEPS}    return x * tl.inline_asm_elementwise(
        "{SATURATED}", "=f,f,f,f", [x, p, tl.full(x.shape, 0.5, tl.float32)], dtype=tl.float32, is_pure=True, pack=1,
    )
""",
}
