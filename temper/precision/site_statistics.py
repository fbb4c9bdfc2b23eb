"""Statistics of every site from calibration and weights alone, without running anything.

They are clipping, noise of the data, headroom of the integer sums, and how unlike the channels are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from temper.ir.graph import Graph, Node
from temper.passes.integer_products import largest_sum
from temper.quantize.auto import noise
from temper.quantize.codes import Codes, channel_ranges, codes_of, quantize_weights, weight_scales
from temper.quantize.histogram import Histogram
from temper.quantize.placement import Site
from temper.quantize.recipe import Recipe


@dataclass(frozen=True)
class Figures:
    """Fields as in outcome.Site; None where they do not apply or are not known."""

    clip_rate: float | None = None
    rmse_over_scale: float | None = None
    sqnr: float | None = None
    headroom_bits: float | None = None
    channel_range_ratio: float | None = None


def figures(
    graph: Graph, sites: Iterable[Site], recipe: Recipe, histograms: Mapping[str, Histogram]
) -> dict[str, Figures]:
    """Of every site that the recipe has on, as if all of them were. histograms: of the float graph's tensors."""
    sites = tuple(sites)
    placement = recipe.placement(graph, sites)
    codes = codes_of(graph, placement, recipe.amax, recipe.ranges)
    nodes = {n.outputs[0].name: n for n in graph.nodes}
    found = {}
    for site in sites:
        if site.name not in recipe.sites or (site.key, site.inputs[0]) not in placement.reads:
            continue
        read = codes[placement.reads[site.key, site.inputs[0]]]
        # where channels were scaled, the tensor is no longer what was counted
        same = (site.key, 1) not in recipe.operands
        h = histograms.get(site.tensors[0]) if site.tensors and same else None
        clip, rmse, sqnr = _data(h, read) if h is not None and h.total else (None, None, None)
        bits, ratio = _weights(graph, nodes[site.key], recipe, recipe.weight_scales.get(site.name), read)
        found[site.name] = Figures(clip, rmse, sqnr, bits, ratio)
    return found


def _data(h: Histogram, codes: Codes) -> tuple[float, float, float]:
    """Clip rate, RMSE in steps, and signal to noise in dB of what `h` counts as these codes."""
    levels = 127 if codes.dtype == "int8" else max(255 - codes.zero, codes.zero)
    scale = float(codes.scale)
    centres = (np.arange(len(h.counts)) + 0.5) * h.width
    power = float((h.counts * centres**2).sum() - h.zeros * centres[0] ** 2) / h.total
    share = noise(h, levels * scale, levels)
    # the values of the bin that holds the end are uniform over it
    beyond = np.clip((np.arange(1, len(h.counts) + 1) * h.width - (levels + 0.5) * scale) / h.width, 0.0, 1.0)
    clip = float((h.counts * beyond).sum()) / h.total
    return clip, math.sqrt(max(share * power, 0.0)) / scale, -10 * math.log10(share) if share > 0 else math.inf


def _weights(
    graph: Graph, node: Node, recipe: Recipe, scale: np.ndarray | None, codes: Codes
) -> tuple[float | None, float | None]:
    """How often the worst sum of products could double within int32, and largest over median range of a channel."""
    if node.op not in ("Conv", "MatMul"):
        return None, None
    w = recipe.operands.get((node.outputs[0].name, 1), node.inputs[1].const if node.inputs[1] is not None else None)
    if w is None or not w.size:
        return None, None
    derived = graph.derived
    rows = derived(quantize_weights, w, derived(weight_scales, w) if scale is None else scale)
    worst = derived(largest_sum, rows) * (128 if codes.dtype == "int8" else 255)
    ranges = derived(channel_ranges, w)
    middle = float(np.median(ranges))
    return (31 - math.log2(worst) if worst else None), (float(ranges.max()) / middle if middle else None)
