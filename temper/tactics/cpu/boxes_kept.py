"""Non-maximum suppression (templates/boxes_kept.c)."""

from __future__ import annotations

from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import defines
from temper.tactics.plain import boxes_decline


class BoxesKept(Direct):
    """A heap for every image and class: what does not pass the score threshold is never sorted."""

    name = "cpu.boxes_kept"
    ops = frozenset({"BoxesKept"})
    seconds = 1e-7

    def declines(self, w: Workload) -> str | None:
        return boxes_decline(w)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        scores = w.inputs[1]
        assert scores is not None
        images, classes, boxes = (int(str(d)) for d in scores.type.shape)
        keep = int(str(w.outputs[0].type.shape[0])) // max(1, images * classes)
        low = dict(w.attrs).get("score_threshold")
        text = defines(
            {
                "PICK": f"{entry}_pick",
                "PACK": f"{entry}_pack",
                "PAIRS": images * classes,
                "CLASSES": max(1, classes),
                "BOXES": boxes,
                "KEEP": keep,
                "IOU": _float(w.attr("iou_threshold")),
                "PASSES(s)": "1" if low is None else f"((s) > {_float(low)})",
                "CENTER": int(str(w.attr("center_point_box"))),
            }
        )
        source = template_text("vec.h") + text + template_text("boxes_kept.c")
        args = (("input", 0), ("input", 1), ("output", 0), ("output", 1), ("shared", 0), ("workspace", 0))
        found = 4 * images * classes * (1 + keep)
        return Kernel(
            source, (f"{entry}_pick", f"{entry}_pack"), args, (), 4 * boxes + 20 * (keep + 1), found, in_place=False
        )


def _float(value: object) -> str:
    """A C literal of the float32 nearest to a number."""
    return f"((float){float(str(value)).hex()})"
