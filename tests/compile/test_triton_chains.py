"""Runs of products in TTGIR that are waited for once."""

from __future__ import annotations

from temper.compile.triton_chains import chained_sums

_A, _B = "!ttg.memdesc<64x64xi8, #shared1, #smem>", "!ttg.memdesc<64x64xi8, #shared, #smem>"
_C = "tensor<64x64xi32, #mma>"


def dot(out: str, a: str, sums: str, pad: str = "    ", attrs: str = "{inputPrecision = 0 : i32}") -> str:
    return f"{pad}{out} = ttng.warp_group_dot {a}, %w, {sums} {attrs} : {_A} * {_B} -> {_C} loc(#loc)"


def wait(out: str, product: str, a: str, pad: str = "      ") -> str:
    types = f"{_C}, {_A}, {_B}"
    return f"{pad}{out}:3 = ttng.warp_group_dot_wait {product}, {a}, %w {{pendings = 0 : i32}} : {types} loc(#loc)"


FENCE = "    ttng.fence_async_shared {bCluster = false} loc(#loc)"


def test_products_that_follow_each_other_have_one_wait() -> None:
    text = [FENCE, dot("%1", "%a", "%zero"), FENCE, dot("%2", "%b", "%1"), "    %3 = arith.addi %x, %x : i32",
            f"    %4 = arith.maxsi %2, %5 : {_C}"]  # fmt: skip
    found = chained_sums("\n".join(text)).split("\n")
    assert found[0] == FENCE
    assert [line.split(" = ")[0].strip() for line in found[1:]] == ["%1", "%2", "%3", "%chain1:4", "%4"]
    assert found[1].count("isAsync = true") == found[2].count("isAsync = true") == 1
    assert "wait %2, %a, %w, %b {pendings = 0 : i32}" in found[4]
    assert found[5] == f"    %4 = arith.maxsi %chain1#0, %5 : {_C}"


def test_two_sums_and_the_waits_of_a_loop() -> None:
    asynchronous = "{isAsync = true}"
    text = [
        "    %r = scf.for %q = %c0 to %c4 step %c1 iter_args(%s = %t) -> (i32)  : i32 {", "  " + FENCE,
        dot("%1", "%a", "%zero", "      ", asynchronous), wait("%2", "%1", "%a"), "  " + FENCE,
        dot("%3", "%b", "%2#0", "      ", asynchronous), wait("%4", "%3", "%b"), "  " + FENCE,
        dot("%5", "%b", "%zero", "      ", asynchronous), wait("%6", "%5", "%b"),
        f"      %7 = arith.maxsi %4#0, %6#0 : {_C}",
    ]  # fmt: skip
    found = chained_sums("\n".join(text)).split("\n")
    assert sum("warp_group_dot_wait" in line for line in found) == 1 and sum("fence" in line for line in found) == 1
    assert f"%7 = arith.maxsi %chain2#0, %chain2#1 : {_C}" in found[-1]
    assert dot("%3", "%b", "%1", "      ", asynchronous).removesuffix(" loc(#loc)") in found


def test_other_forms_stay() -> None:
    first, second = dot("%1", "%a", "%zero"), dot("%2", "%b", "%1")
    for text in (
        [FENCE, first, "    %3 = arith.addi %x, %x : i32", second],  # something lies between
        ["    %3 = arith.addi %x, %x : i32", first, second],  # no fence is known to be before
        [FENCE, first, second, f"    %4 = arith.maxsi %2, %1 : {_C}"],  # sums are read before they are whole
        [FENCE, first],
    ):
        assert chained_sums("\n".join(text)) == "\n".join(text)
