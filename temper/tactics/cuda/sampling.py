"""GridSample, RoiAlign and MaxRoiPool on a CUDA GPU: images sampled between pixels, in float64 as the references do."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product as combinations

from temper.tactics.base import Params, Workload
from temper.tactics.cuda.indexed import Body, Tiled, dense, input_pointer, output_index
from temper.tactics.cuda.instructions import TRITON_TYPES, literal
from temper.tactics.cuda.kernel import dim_text
from temper.tactics.geometry import typical_count

_FLOATS = ("float32", "float64")
_TAPS = {"nearest": 1, "linear": 2, "cubic": 4}


class _Sampled(Tiled):
    """What all share."""

    moves = False

    def declines(self, w: Workload) -> str | None:
        odd = sorted({s.type.dtype for s in w.inputs[:2] if s is not None} - set(_FLOATS))
        if odd:
            return f"computes float32 and float64, not {odd[0]}"
        if w.op != "GridSample" and any(s is not None and s.row_stride is not None for s in w.inputs[1:]):
            return "the regions must be dense"
        return None

    def predict(self, w: Workload, params: Params) -> float:
        return 3e-6 + typical_count(w.outputs[0].type.shape) * 1e-9


class GridSample(_Sampled):
    """Over any number of spatial axes in all modes; a tap of weight 0 is not counted, whatever lies there."""

    name = "cuda.grid_sample"
    ops = frozenset({"GridSample"})

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        x, grid, index = w.inputs[0], w.inputs[1], output_index(w)
        assert x is not None and grid is not None
        spatial, rank, each = x.type.shape[2:], x.type.rank - 2, _TAPS[str(w.attr("mode"))]
        padding, align = str(w.attr("padding_mode")), bool(w.attr("align_corners", 0))
        strides, steps = dense(w, 0), dense(w, 1)
        points = index.offset({0: steps[0], **{2 + a: steps[1 + a] for a in range(len(steps) - 2)}})
        lines = [*index.statements, f"point = grid + {points} + tl.zeros((BM, BN), tl.int64)"]
        for a in range(rank):
            size = f"size{a}"
            pixel = f"(g + 1.0) / 2.0 * ({size} - 1.0)" if align else f"((g + 1.0) * {size} - 1.0) / 2.0"
            lines += [
                f"{size} = tl.zeros((1, 1), tl.float64) + ({dim_text(spatial[a])})",
                f"g = tl.load(point + {rank - 1 - a}, mask=live, other=0.0).to(tl.float64)",
                f"where = within_reach({pixel})",
                f"low = {'tl.zeros((1, 1), tl.float64)' if align else 'tl.full((1, 1), -0.5, tl.float64)'}",
                f"high = {size} - {'1.0' if align else '0.5'}",
            ]
            if each < 4 and padding == "border":
                lines.append(f"where = tl.where(where < 0, 0.0, tl.where(where > {size} - 1.0, {size} - 1.0, where))")
            if each < 4 and padding == "reflection":
                lines.append("where = mirrored(where, low, high)")
            lines.append(f"base = {'nearest_of(where)' if each == 1 else 'tl.floor(where)'}")
            for k in range(each):
                name = f"w{a}_{k}"
                lines.append(f"near = base + {float(k - (each // 2 - 1)) if each > 1 else 0.0}")
                if each == 1:
                    lines.append(f"{name} = tl.full((BM, BN), 1.0, tl.float64)")
                elif each == 2:
                    lines.append(f"{name} = at_least64(1.0 - tl.abs(near - where), 0.0)")
                else:
                    lines.append(f"{name} = keys(tl.abs(near - where))")
                if each == 4 and padding == "reflection":
                    lines.append("near = nearest_of(mirrored(near, low, high))")
                if padding == "zeros":
                    lines.append(f"{name} = tl.where((near < 0) | (near > {size} - 1.0), 0.0, {name})")
                lines += [
                    f"near = tl.where(near < 0, 0.0, tl.where(near > {size} - 1.0, {size} - 1.0, near))",
                    f"p{a}_{k} = near.to(tl.int64) * ({dim_text(strides[2 + a])})",
                ]
        plane = f"x + {index.offset({0: strides[0], 1: strides[1]})}"
        lines += [f"plane = {plane} + tl.zeros((BM, BN), tl.int64)", "total = tl.zeros((BM, BN), tl.float64)"]
        for taps in combinations(range(each), repeat=rank):
            weight = " * ".join(f"w{a}_{k}" for a, k in enumerate(taps))
            at = " + ".join(f"p{a}_{k}" for a, k in enumerate(taps))
            lines += [
                f"weight = {weight}",
                f"value = tl.load(plane + {at}, mask=live & (weight != 0), other=0.0).to(tl.float64)",
                "total += tl.where(weight != 0, weight * value, 0.0)",
            ]
        lines.append(f"v0 = total.to({TRITON_TYPES[w.epilogue.operands[0].dtype]})")
        pointers = [input_pointer(w, 0, "x"), input_pointer(w, 1, "grid")]
        return Body(lines, pointers, f"{w.attr('mode')} samples on a grid.")


class RoiAlign(_Sampled):
    """Means, or largest weighted neighbours, of samples in each bin of every region."""

    name = "cuda.roi_align"
    ops = frozenset({"RoiAlign"})

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        x, y, index = w.inputs[0], w.outputs[0].type, output_index(w)
        assert x is not None
        images, _, height, width = x.type.shape
        half = w.attr("coordinate_transformation_mode") == "half_pixel"
        maximum, grid = w.attr("mode") == "max", int(str(w.attr("sampling_ratio", 0)))
        region, channel, row, column = index.names
        strides = dense(w, 0)
        scale = f"tl.full((1, 1), {literal(w.attr('spatial_scale', 1.0), w.epilogue.operands[0].dtype)}, tl.float64)"
        lines = [
            *index.statements,
            f"batch = tl.load(images + {region}, mask=live, other=0)",
            f"known = live & (batch >= 0) & (batch < {dim_text(images)})",
            f"plane = x + batch.to(tl.int64) * ({dim_text(strides[0])}) + {channel} * ({dim_text(strides[1])})",
        ]
        for axis, first, bins in (("y", 1, y.shape[2]), ("x", 0, y.shape[3])):
            corner = f"tl.load(rois + {region} * 4 + {{}}, mask=live, other=0.0).to(tl.float64) * {scale}"
            lines += [
                f"from_{axis} = {corner.format(first)}{' - 0.5' if half else ''}",
                f"span = {corner.format(first + 2)}{' - 0.5' if half else ''} - from_{axis}",
                *([] if half else ["span = tl.where(span > 1, span, 1.0)"]),
                f"step_{axis} = span / ({dim_text(bins)} + tl.zeros((1, 1), tl.float64))",
            ]
            if grid:
                lines.append(f"count_{axis} = tl.full((BM, BN), {grid}, tl.int64)")
            else:
                lines += [
                    f"whole = tl.floor(within_reach(step_{axis}))",
                    f"count_{axis} = tl.maximum(whole.to(tl.int64) + (whole < step_{axis}).to(tl.int64), 0)",
                    f"count_{axis} = tl.where(known, count_{axis}, 0) + tl.zeros((BM, BN), tl.int64)",
                ]
        lines += [
            "total = tl.zeros((BM, BN), tl.float64)",
            "most_y = tl.max(tl.max(count_y, 1), 0)",
            "most_x = tl.max(tl.max(count_x, 1), 0)",
            "i = most_y * 0",
            "while i < most_y:",
            *(f"    {x}" for x in _neighbours("y", row, "i", height)),
            "    j = most_x * 0",
            "    while j < most_x:",
            *(f"        {x}" for x in _neighbours("x", column, "j", width)),
            "        counted = known & (i < count_y) & (j < count_x)",
            "        there = counted & in_y & in_x",
        ]
        parts = []
        for k, (a, b) in enumerate((("low", "low"), ("low", "high"), ("high", "low"), ("high", "high"))):
            weight = f"{'(1.0 - f_y)' if a == 'low' else 'f_y'} * {'(1.0 - f_x)' if b == 'low' else 'f_x'}"
            at = f"{a}_y * ({dim_text(strides[2])}) + {b}_x * ({dim_text(strides[3])})"
            lines.append(f"        v = tl.load(plane + {at}, mask=there, other=0.0).to(tl.float64)")
            lines.append(f"        part{k} = tl.where(there, {weight} * v, 0.0)")
            parts.append(f"part{k}")
        if maximum:
            lines.append("        begin = (i == 0) & (j == 0)")
            lines.append("        total = tl.where(counted & (begin | (part0 > total)), part0, total)")
            lines += [f"        total = tl.where(counted & ({p} > total), {p}, total)" for p in parts[1:]]
        else:
            lines.append(f"        total += {' + '.join(parts)}")
        lines += ["        j += 1", "    i += 1"]
        if not maximum:
            lines.append("samples = count_y * count_x")
            lines.append("total = tl.where(samples > 0, total / tl.maximum(samples, 1).to(tl.float64), total)")
        lines.append(f"v0 = total.to({TRITON_TYPES[w.epilogue.operands[0].dtype]})")
        pointers = [input_pointer(w, i, name) for i, name in enumerate(("x", "rois", "images"))]
        return Body(lines, pointers, "Samples of regions.")


def _neighbours(axis: str, bin_: str, sample: str, size: object) -> list[str]:
    """Statements that find the neighbours of a sample along an axis, and the weight of the upper one."""
    last = f"({dim_text(size)} - 1)"  # type: ignore[arg-type]
    return [
        f"at = ({sample}.to(tl.float64) + 0.5) * step_{axis} / tl.maximum(count_{axis}, 1).to(tl.float64)",
        f"at = from_{axis} + {bin_}.to(tl.float64) * step_{axis} + at",
        f"in_{axis} = (at >= -1.0) & (at <= {dim_text(size)} + tl.zeros((1, 1), tl.float64))",  # type: ignore[arg-type]
        f"far = {last} + tl.zeros((1, 1), tl.float64)",
        "at = tl.where(at < 0, 0.0, tl.where(at > far, far, at))",
        f"low_{axis} = at.to(tl.int64)",
        f"high_{axis} = tl.minimum(low_{axis} + 1, {last})",
        f"f_{axis} = at - low_{axis}.to(tl.float64)",
    ]


class MaxRoiPool(_Sampled):
    """Largest elements of the bins of every region; 0 for an empty bin."""

    name = "cuda.max_roi_pool"
    ops = frozenset({"MaxRoiPool"})

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        x, y, index = w.inputs[0], w.outputs[0].type, output_index(w)
        assert x is not None
        images, _, height, width = x.type.shape
        region, channel, row, column = index.names
        strides = dense(w, 0)
        scale = literal(w.attr("spatial_scale", 1.0), "float32")
        corner = f"whole_of(tl.load(rois + {region} * 5 + {{}}, mask=live, other=0.0).to(tl.float32){{}})"
        lines = [*index.statements, f"image_in = {corner.format(0, '')}"]
        for axis, first, bins, bin_, limit in (("y", 2, y.shape[2], row, height), ("x", 1, y.shape[3], column, width)):
            lines += [
                f"start = {corner.format(first, f' * {scale}')}",
                f"size = tl.maximum({corner.format(first + 2, f' * {scale}')} - start + 1, 1)",
                f"step = tl.div_rn(size.to(tl.float32), {dim_text(bins)} + tl.zeros((1, 1), tl.float32))",
                f"a = start + tl.floor(({bin_}.to(tl.float32) * step).to(tl.float64)).to(tl.int64)",
                f"b = start - tl.floor(-((({bin_} + 1).to(tl.float32) * step).to(tl.float64))).to(tl.int64)",
                f"low_{axis} = tl.minimum(tl.maximum(a, 0), {dim_text(limit)})",
                f"high_{axis} = tl.minimum(tl.maximum(b, 0), {dim_text(limit)})",
            ]
        lines += [
            f"known = live & (image_in >= 0) & (image_in < {dim_text(images)})",
            f"plane = x + image_in * ({dim_text(strides[0])}) + {channel} * ({dim_text(strides[1])})",
            "tall = tl.where(known, high_y - low_y, 0) + tl.zeros((BM, BN), tl.int64)",
            "wide = tl.where(known, high_x - low_x, 0) + tl.zeros((BM, BN), tl.int64)",
            f"best = tl.zeros((BM, BN), {TRITON_TYPES[w.epilogue.operands[0].dtype]})",
            "most_y = tl.max(tl.max(tall, 1), 0)",
            "most_x = tl.max(tl.max(wide, 1), 0)",
            "i = most_y * 0",
            "while i < most_y:",
            "    j = most_x * 0",
            "    while j < most_x:",
            "        there = (i < tall) & (j < wide)",
            f"        at = (low_y + i) * ({dim_text(strides[2])}) + (low_x + j) * ({dim_text(strides[3])})",
            "        v = tl.load(plane + at, mask=there, other=0.0)",
            "        best = tl.where(there & (((i == 0) & (j == 0)) | (v > best)), v, best)",
            "        j += 1",
            "    i += 1",
            "v0 = best",
        ]
        pointers = [input_pointer(w, i, name) for i, name in enumerate(("x", "rois"))]
        return Body(lines, pointers, "Largest elements of regions.")
