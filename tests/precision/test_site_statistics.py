"""Figures of sites against what quantizing the data and weights themselves gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from temper.ir.evaluate import evaluate_values
from temper.ir.graph import Graph
from temper.precision.site_statistics import Figures, figures
from temper.quantize.codes import quantize_weights, weight_scales
from temper.quantize.histogram import EMPTY, observe
from temper.quantize.placement import Site, not_negative, sites_of
from temper.quantize.recipe import Recipe
from tests.quantize.nets import NETS, Make, float_net, mobile, recipe_of


def seen(make: Make) -> tuple[Graph, tuple[Site, ...], Recipe, dict[str, np.ndarray]]:
    graph, feeds = float_net(make)
    sites = sites_of(graph)
    names = {t for s in sites for t in s.tensors}
    values = [v for v in graph.values if v.name in names]
    found = evaluate_values(graph, feeds, values)
    return graph, sites, recipe_of(graph, feeds), {v.name: found[v.id] for v in values}


def measured(graph: Graph, recipe: Recipe, site: Site, x: np.ndarray) -> tuple[float, float, float]:
    """Clip rate, RMSE in steps and SQNR of the data, element by element, for tensors that share no scale."""
    (value,) = [v for v in graph.values if v.name == site.tensors[0]]
    low, levels = (0, 255) if not_negative(value) else (-128, 127)
    scale = np.float64(np.float32(recipe.amax[value.name] / levels))
    wide = x.astype(np.float64)
    error = np.clip(np.rint(wide / scale), low, levels) * scale - wide
    clipped = np.abs(wide) > (levels + 0.5) * scale
    return (
        float(clipped.mean()),
        float(np.sqrt((error**2).mean()) / scale),
        10 * np.log10((wide**2).sum() / (error**2).sum()),
    )


@pytest.mark.parametrize("part", [1.0, 0.4])
def test_data(part: float) -> None:
    """part: how much of the range the thresholds hold."""
    graph, sites, recipe, data = seen(mobile)
    recipe = replace(recipe, amax={t: part * a for t, a in recipe.amax.items()})
    found = figures(graph, sites, recipe, {t: observe(x) for t, x in data.items()})
    for site in sites:
        clip, rmse, sqnr = measured(graph, recipe, site, data[site.tensors[0]])
        figure = found[site.name]
        assert figure.clip_rate == pytest.approx(clip, abs=2e-3)
        assert figure.rmse_over_scale == pytest.approx(rmse, rel=0.1)
        assert figure.sqnr == pytest.approx(sqnr, abs=1.0)
    assert (max(f.clip_rate or 0.0 for f in found.values()) > 0.01) == (part < 1)


@pytest.mark.parametrize("make", NETS)
def test_weights(make: Make) -> None:
    graph, sites, recipe, _ = seen(make)
    found = figures(graph, sites, recipe, {})
    nodes = {n.outputs[0].name: n for n in graph.nodes}
    for site in sites:
        figure = found[site.name]
        assert (figure.clip_rate, figure.sqnr) == (None, None)
        if site.op not in ("Conv", "MatMul"):
            assert figure.headroom_bits is None
            continue
        w = nodes[site.key].inputs[1].const  # type: ignore[union-attr]
        assert w is not None
        rows = np.abs(quantize_weights(w, weight_scales(w)).astype(np.int64)).reshape(-1, w.shape[-1])
        assert figure.headroom_bits is not None and figure.headroom_bits > 0
        assert int(rows.sum(axis=0).max()) * 128 * 2**figure.headroom_bits <= 2**31 * (1 + 1e-9)
        assert figure.channel_range_ratio is not None and figure.channel_range_ratio >= 1


def test_sites_that_are_off_have_none() -> None:
    graph, sites, recipe, _ = seen(mobile)
    off = sites[1].name
    assert off not in figures(graph, sites, recipe.without([off]), {})
    assert figures(graph, sites, recipe.without([s.name for s in sites]), {}) == {}


def test_nothing_counted_is_not_known() -> None:
    graph, sites, recipe, _ = seen(mobile)
    found = figures(graph, sites, recipe, dict.fromkeys(recipe.amax, EMPTY))
    assert {f.clip_rate for f in found.values()} == {None}
    assert Figures() == Figures(None, None, None, None, None)
