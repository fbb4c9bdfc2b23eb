# ruff: noqa: E731 (a case is a name and the function that makes its operands)
"""Cases of movement and resizing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from temper.ir.opdef import AttrValue
from tests.ops.case import Arrays, Case, Rng, floats, numbers


def _movement() -> Iterator[Case]:
    def data(*shape: int, dtype: str = "float32") -> Callable[[Rng], Arrays]:
        return lambda rng: [numbers(rng, shape, dtype)]

    for perm, shape in (
        ((0, 2, 3, 1), (2, 5, 3, 7)),
        ((0, 3, 1, 2), (2, 3, 7, 5)),
        ((1, 0), (17, 9)),
        ((2, 0, 1), (1, 1, 8)),
        ((0, 2, 1), (2, 33, 40)),
        ((0,), (5,)),
        ((1, 0, 2), (0, 3, 4)),
        ((3, 1, 0, 2), (2, 3, 4, 5)),
        ((), ()),
    ):
        yield Case(
            f"Transpose_{'x'.join(map(str, shape))}_{''.join(map(str, perm))}",
            "Transpose",
            {"perm": perm},
            data(*shape),
        )
    for shape, to in (
        ((2, 3, 4), (6, 4)),
        ((2, 3, 4), (2, -1)),
        ((1, 7), (7,)),
        ((), (1, 1)),
        ((1,), ()),
        ((0, 3), (3, 0)),
    ):
        yield Case(f"Reshape_{shape}_{to}", "Reshape", {"shape": to}, data(*shape))
    for shape, to in (
        ((3, 1), (2, 3, 4)),
        ((1, 5), (3, 5)),
        ((), (2, 2)),
        ((4,), (4,)),
        ((3, 1), (1, 1)),
        ((1, 2), (0, 2)),
    ):
        yield Case(f"Expand_{shape}_{to}", "Expand", {"shape": to}, data(*shape))
    yield Case("Squeeze", "Squeeze", {"axes": (1, -1)}, data(3, 1, 4, 1))
    yield Case("Unsqueeze", "Unsqueeze", {"axes": (0, -1)}, data(3, 4))
    for shape, repeats in (((2, 3), (2, 1)), ((2, 3), (1, 3)), ((3,), (0,)), ((1, 2, 3), (2, 2, 2))):
        yield Case(f"Tile_{shape}_{repeats}", "Tile", {"repeats": repeats}, data(*shape))
    parts = ((1, 3, 4, 5), (1, 3, 4, 8), (1, 3, 4, 1))
    yield Case("Concat_last", "Concat", {"axis": -1}, lambda rng: [floats(rng, s) for s in parts])
    yield Case("Concat_channels", "Concat", {"axis": 1}, lambda rng: [floats(rng, (2, c, 3, 3)) for c in (5, 16, 3)])
    yield Case("Concat_first", "Concat", {"axis": 0}, lambda rng: [floats(rng, (n, 7)) for n in (1, 0, 4)])
    yield Case("Concat_int64", "Concat", {"axis": 0}, lambda rng: [numbers(rng, (n,), "int64") for n in (1, 2)])
    yield Case("Concat_one", "Concat", {"axis": 0}, data(3, 4))
    yield Case("Split_last", "Split", {"axis": -1, "sizes": (5, 8, 1)}, data(2, 3, 14))
    yield Case("Split_channels", "Split", {"axis": 1, "sizes": (3, 3, 1)}, data(2, 7, 5))
    yield Case("Split_empty_part", "Split", {"axis": 0, "sizes": (0, 4)}, data(4, 3))
    far = (1 << 63) - 1
    slices: Sequence[
        tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    ] = (
        ("middle", (4, 9, 5), (1, 2), (3, 7), (0, 1), (1, 1)),
        ("steps", (4, 9, 5), (0, 1), (far, far), (0, 1), (2, 3)),
        ("negative_axes", (4, 9, 5), (-3,), (-1,), (-2,), (1,)),
        ("reversed", (4, 9, 5), (-1,), (-far,), (1,), (-1,)),
        ("reversed_steps", (4, 9, 5), (7,), (0,), (1,), (-2,)),
        ("reversed_past_end", (9,), (100,), (-100,), (0,), (-3,)),
        ("reversed_before_start", (9, 4), (-14, 2), (-15, -9), (0, 1), (-2, -1)),
        ("clamped", (4, 9), (-100, 3), (100, 100), (0, 1), (1, 1)),
        ("empty", (4, 9), (3,), (2,), (0,), (1,)),
        ("channels", (2, 5, 5, 13), (3,), (11,), (3,), (1,)),
    )
    for name, shape, starts, ends, axes, steps in slices:
        yield Case(
            f"Slice_{name}", "Slice", {"starts": starts, "ends": ends, "axes": axes, "steps": steps}, data(*shape)
        )
    yield Case("Slice_defaults", "Slice", {"starts": (1, 1), "ends": (3, 2)}, data(4, 5, 6))
    for mode in ("constant", "reflect", "edge", "wrap"):
        yield Case(f"Pad_{mode}", "Pad", {"mode": mode, "pads": (0, 1, 2, 0, 2, 1)}, data(2, 4, 5))
    yield Case("Pad_value", "Pad", {"pads": (1, 0, 0, 2), "value": -1.5}, data(3, 4))
    yield Case("Pad_crop", "Pad", {"pads": (0, -1, 2, -2)}, data(4, 6))
    yield Case("Pad_spatial", "Pad", {"pads": (0, 0, 1, 1, 0, 0, 1, 1)}, data(1, 3, 4, 4))
    yield Case("Pad_int64", "Pad", {"pads": (1, 1), "value": 7}, data(3, dtype="int64"))
    for axis, shape, index in (
        (0, (5, 3), (4,)),
        (1, (2, 7, 3), (2, 2)),
        (-1, (3, 4), ()),
        (0, (9,), (0,)),
        (2, (2, 3, 6), (1,)),
    ):
        n = shape[axis]
        make = lambda rng, s=shape, i=index, n=n: [floats(rng, s), numbers(rng, i, "int64", -n, n - 1)]
        yield Case(f"Gather_{axis}_{index}", "Gather", {"axis": axis}, make)
    yield Case("Gather_int32", "Gather", {}, lambda rng: [floats(rng, (5, 3)), numbers(rng, (4,), "int32", 0, 4)])
    for axis in (0, 1, -1):
        n = (3, 4)[axis]
        index = lambda rng, n=n: numbers(rng, (2, 3), "int64", -n, n - 1)
        yield Case(
            f"GatherElements_{axis}",
            "GatherElements",
            {"axis": axis},
            lambda rng, f=index: [floats(rng, (3, 4)), f(rng)],
        )
    nd = (((2, 3, 4), (5, 2), 0, 2), ((2, 3, 4), (2, 1), 1, 3), ((2, 3, 4), (2, 3, 1), 2, 4), ((4, 3), (2, 2, 1), 0, 3))
    for shape, index_shape, batch, bound in nd:
        make = lambda rng, s=shape, i=index_shape, b=bound: [floats(rng, s), numbers(rng, i, "int64", 0, b - 1)]
        yield Case(f"GatherND_{index_shape}_{batch}", "GatherND", {"batch_dims": batch}, make)
    for reduction in ("none", "add", "mul", "max", "min"):
        for axis in (0, -1):
            attrs: dict[str, AttrValue] = {"axis": axis, "reduction": reduction}
            # indices that repeat only where the result does not depend on the order
            index = np.array([[0, 1, 2], [1, 2, 0]] if reduction == "none" else [[0, 1, 1], [0, 2, 2]], np.int64)
            make = lambda rng, i=index: [floats(rng, (4, 4)), i.copy(), floats(rng, (2, 3))]
            yield Case(f"ScatterElements_{reduction}_{axis}", "ScatterElements", attrs, make)
        at = np.array([[0], [2]] if reduction == "none" else [[1], [1]], np.int64)
        make = lambda rng, i=at: [floats(rng, (4, 5)), i.copy(), floats(rng, (2, 5))]
        yield Case(f"ScatterND_{reduction}", "ScatterND", {"reduction": reduction}, make)
    yield Case(
        "ScatterND_elements",
        "ScatterND",
        {},
        lambda rng: [floats(rng, (4, 5)), np.array([[0, 1], [-1, -1]], np.int64), floats(rng, (2,))],
    )
    for mode in ("DCR", "CRD"):
        for last in (0, 1):
            attrs = {"blocksize": 2, "mode": mode, "channels_last": last}
            yield Case(
                f"DepthToSpace_{mode}_{last}", "DepthToSpace", attrs, data(*((2, 3, 5, 12) if last else (2, 12, 3, 5)))
            )
    for last in (0, 1):
        attrs = {"blocksize": 2, "channels_last": last}
        yield Case(f"SpaceToDepth_{last}", "SpaceToDepth", attrs, data(*((2, 4, 6, 3) if last else (2, 3, 4, 6))))
    for upper in (0, 1):
        for k in (-2, 0, 1, 9):
            yield Case(f"Trilu_{upper}_{k}", "Trilu", {"upper": upper, "k": k}, data(2, 4, 5))
    for axis in (-1, 0, 1):
        make = lambda rng: [numbers(rng, (3, 4), "int64", -5, 5), np.array([0.25, 2.0], np.float32)]
        yield Case(f"OneHot_{axis}", "OneHot", {"depth": 5, "axis": axis}, make, (1,))
    for batch in (0, 1):
        make = lambda rng, b=batch: [floats(rng, (4, 5, 2)), numbers(rng, ((4, 5)[b],), "int64", 1, (5, 4)[b])]
        yield Case(f"ReverseSequence_{batch}", "ReverseSequence", {"batch_axis": batch, "time_axis": 1 - batch}, make)


def _resizes() -> Iterator[Case]:
    def resize(name: str, shape: tuple[int, ...], **attrs: AttrValue) -> Case:
        return Case(f"Resize_{name}", "Resize", attrs, lambda rng: [floats(rng, shape)])

    transforms = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
    for transform in transforms:
        for mode in ("nearest", "linear", "cubic"):
            for name, to in (
                ("up", (1, 3, 11, 8)),
                ("down", (1, 3, 4, 3)),
                ("one", (1, 3, 1, 1)),
                ("mixed", (1, 3, 13, 2)),
            ):
                yield resize(
                    f"{mode}_{transform}_{name}",
                    (1, 3, 6, 5),
                    sizes=to,
                    mode=mode,
                    coordinate_transformation_mode=transform,
                )
    for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        for transform in ("half_pixel", "asymmetric", "align_corners"):
            more: dict[str, AttrValue] = {"nearest_mode": nearest, "coordinate_transformation_mode": transform}
            yield resize(f"nearest_{nearest}_{transform}_2x", (2, 5, 4, 3), scales=(1.0, 1.0, 2.0, 2.0), **more)
            yield resize(f"nearest_{nearest}_{transform}_half", (1, 5, 7, 8), scales=(1.0, 1.0, 0.5, 0.6), **more)
    yield resize(
        "upsample_asymmetric_floor",
        (1, 16, 5, 7),
        scales=(1.0, 1.0, 2.0, 2.0),
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    rounding: dict[str, AttrValue] = {
        "nearest_mode": "round_prefer_ceil",
        "coordinate_transformation_mode": "asymmetric",
    }
    yield resize("nearest_just_below_tie", (1, 1, 10, 10), sizes=(1, 1, 23, 24), **rounding)
    plain: dict[str, AttrValue] = {"coordinate_transformation_mode": "half_pixel"}
    yield resize("nearest_just_above_tie", (1, 1, 28, 3), sizes=(1, 1, 38, 3), **plain)
    corners: dict[str, AttrValue] = {"coordinate_transformation_mode": "align_corners"}
    yield resize("linear_corners_scales", (1, 1, 2, 4), scales=(1.0, 1.0, 0.6, 0.6), mode="linear", **corners)
    yield resize("cubic_corners_scales", (1, 1, 4, 4), scales=(1.0, 1.0, 0.8, 0.8), mode="cubic", **corners)
    yield resize("linear_scales", (1, 3, 5, 6), scales=(1.0, 1.0, 1.7, 0.8), mode="linear")
    yield resize("cubic_a", (1, 2, 5, 6), scales=(1.0, 1.0, 2.0, 1.5), mode="cubic", cubic_coeff_a=-0.5)
    yield resize("cubic_exclude", (1, 2, 5, 6), scales=(1.0, 1.0, 2.0, 1.5), mode="cubic", exclude_outside=1)
    for mode in ("linear", "cubic"):
        yield resize(f"{mode}_antialias_down", (1, 2, 12, 11), sizes=(1, 2, 5, 4), mode=mode, antialias=1)
    yield resize("1d_linear", (2, 3, 7), sizes=(2, 3, 12), mode="linear")
    yield resize("last_linear", (1, 6, 5, 13), sizes=(1, 12, 10, 13), mode="linear", channels_last=1)
    yield resize("last_nearest", (1, 6, 5, 13), sizes=(1, 12, 10, 13), mode="nearest", channels_last=1)
    yield resize(
        "crop",
        (1, 2, 8, 8),
        sizes=(1, 2, 4, 5),
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        roi=(0.0, 0.0, 0.2, -0.3, 1.0, 1.0, 0.8, 1.2),
        extrapolation_value=9.0,
    )
    yield Case("Resize_uint8", "Resize", {"sizes": (1, 2, 7, 9)}, lambda rng: [numbers(rng, (1, 2, 4, 5), "uint8")])
    for mode in ("linear", "nearest", "cubic"):
        for padding in ("zeros", "border", "reflection"):
            for align in (0, 1):
                attrs: dict[str, AttrValue] = {"mode": mode, "padding_mode": padding, "align_corners": align}
                make = lambda rng: [floats(rng, (2, 3, 5, 6)), rng.uniform(-1.3, 1.3, (2, 4, 7, 2)).astype(np.float32)]
                yield Case(f"GridSample_{mode}_{padding}_{align}", "GridSample", attrs, make)
                if mode != "cubic":
                    make = lambda rng: [
                        floats(rng, (2, 2, 3, 5, 4)),
                        rng.uniform(-1.3, 1.3, (2, 2, 3, 4, 3)).astype(np.float32),
                    ]
                    yield Case(f"GridSample_{mode}_{padding}_{align}_3d", "GridSample", attrs, make)


def _lookups() -> Iterator[Case]:
    for source, to, shape in (("uint8", "int8", (3, 5, 67)), ("int8", "uint8", (1, 1031)), ("int8", "int8", (7,))):
        make = lambda rng, a=source, b=to, s=shape: [numbers(rng, s, a), numbers(rng, (256,), b)]
        yield Case(f"Lookup_{source}_{to}", "Lookup", {}, make, (1,))


def cases() -> Iterator[Case]:
    yield from _lookups()
    yield from _movement()
    yield from _resizes()
