"""Outcomes for the tests of the report: one with everything in it, one with as little as may be."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from temper.precision import outcome as o

#: A name that breaks a page which does not escape, and a path as exporters write them.
HOSTILE = '</script><img src=x onerror="alert(1)">&\'"{{style}}'


def dot(grey: int) -> str:
    """A PNG of one pixel, by the specification's layout."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes([0, grey]))) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()


def rich(sites: int = 12, samples: int = 2000, seed: int = 0) -> o.Outcome:
    """A made-up build with a naive engine that confuses 6 with 8, and every part of the record filled in."""
    rng = np.random.default_rng(seed)
    labels = np.resize(np.arange(10), samples)
    fp32, naive, chosen = labels.copy(), labels.copy(), labels.copy()
    sixes = np.flatnonzero(labels == 6)
    fp32[sixes[:2]] = naive[sixes[:19]] = 8
    chosen[sixes[1:3]] = 8
    naive[np.flatnonzero(labels == 9)[:7]] = 4
    changed = [int(i) for i in np.flatnonzero(fp32 != chosen)]
    names = [f"/blocks.{i}/conv{'_' * (i % 3)}" for i in range(sites - 1)] + [HOSTILE]
    points = [
        o.Point("FP32", "float", 0, sites, 2.4, divergence=0.0, metric=0.991, size=1_400_000, floats=tuple(names)),
        o.Point("all INT8, min-max", "naive", sites, sites, 0.9, divergence=3.1, metric=0.962, size=400_000),
    ]
    for i in range(6):
        points.append(
            o.Point(
                f"front {i}",
                "tried",
                sites - i,
                sites,
                0.92 + 0.09 * i if i % 3 else None,
                0.93 + 0.085 * i,
                2.0 / (i + 1) ** 2,
                0.97 + 0.004 * i,
                floats=tuple(names[:i]),
            )
        )
    points.append(
        o.Point(
            "chosen",
            "chosen",
            sites - 2,
            sites,
            1.02,
            1.0,
            0.4,
            0.9905,
            450_000,
            tuple(names[:2]),
            ("bias correction",),
        )
    )
    rows = tuple(
        o.Site(
            n,
            "Conv" if i % 4 else "Conv depthwise",
            f"1x{8 * i + 8}x14x14",
            "float32" if i < 2 else "int8",
            "outputs change too much in INT8" if i < 2 else "within the budget",
            pinned=i == 3,
            origin=(n,),
            tensor=f"{n}:0",
            compensation=("bias correction",) if i % 2 else (),
            int8_ms=0.02 + 0.01 * i,
            float_ms=0.05 + 0.025 * i,
            reformat_ms=0.004 if i == 2 else 0.0,
            sensitivity=float(rng.exponential(0.1)) + (i < 2),
            sqnr=float(rng.normal(38, 5)),
            weights_part=float(rng.random()),
            sqnr_cumulative=float(rng.normal(30, 5)),
            clip_rate=float(rng.exponential(1e-4)),
            rmse_over_scale=0.9 if i == 4 else 0.3,
            headroom_bits=float(12 - i % 5),
        )
        for i, n in enumerate(names)
    )
    tensors = []
    for i, n in enumerate(names):
        data = np.abs(rng.standard_t(4, 20000)) * (i + 1)
        top = float(data.max())
        counts = np.histogram(data, 256, (0, top))[0]
        tensors.append(
            o.Tensor(
                f"{n}:0",
                0.7 * top,
                bool(i % 2),
                "mse",
                -top if i % 2 else 0.0,
                top,
                tuple(float(c) for c in counts),
                100,
                {"minmax": top, "entropy": 0.4 * top, "mse": 0.7 * top, "percentile:99.99": 0.8 * top},
                {"minmax": 0.02, "entropy": 0.04, "mse": 0.01},
            )
        )
    return o.Outcome(
        temper="0.1.0",
        when="2026-11-21T08:00:00+00:00",
        model=o.Source("models/digits <v2>.onnx", "ab" * 32, "ONNX"),
        data=o.Data(o.Source("calibration/", "cd" * 32, "directory of 500 images"), 384, 116),
        machine=o.Machine("AMD EPYC", "avx512vnni", 2, "Linux", "3.11.7", {"temper": "0.1.0", "numpy": "2.3.0"}),
        budget=o.Budget("metric", 0.003, "top1", "expected changes of answers"),
        met=True,
        verdict="Within the budget: 2 of 12 layers stay in float, and the engine is 2.35 times as fast as FP32.",
        points=tuple(points),
        config={"calibrator": "auto", "max_drop": 0.003, "keep": [HOSTILE]},
        config_digest="ef" * 32,
        steps=(
            o.Step("thresholds", True, "mse has the least held-out error", 3.1, 1.9, 0.962, 0.975, 0.9, 0.9),
            o.Step("bias correction", True, "lower divergence on held-back samples", 1.9, 1.2, 0.975, 0.981, 0.9, 0.9),
            o.Step("SmoothQuant", False, "no better", 1.2, 1.4, 0.981, 0.980, 0.9, 0.9),
            o.Step("two layers in float", True, "the budget asks for it", 1.2, 0.4, 0.981, 0.9905, 0.9, 1.02),
        ),
        sites=rows,
        tensors=tuple(tensors),
        heads=(
            o.Head("scores", "all INT8", 0.012, 0.002, 0.011, 1.5e-3, 0.013, 3, 96),
            o.Head("boxes", "chosen", 0.02),
        ),
        audit=o.Audit(
            384,
            3,
            1,
            {"broken.png": "truncated"},
            (o.Finding("split half", "warning", "ranges of two halves of the data differ", (f"{HOSTILE}:0",)),),
            {t.name: o.TensorAudit(0.02 * i, 1e-4 * i) for i, t in enumerate(tensors)},
        ),
        warnings=("the calibration set is small",),
        answers=o.Answers(
            "test set",
            False,
            tuple(int(v) for v in fp32),
            tuple(int(v) for v in chosen),
            tuple(int(v) for v in naive),
            tuple(int(v) for v in labels),
            tuple(float(v) for v in rng.random(samples)),
            tuple(str(d) for d in range(10)),
            images={i: dot(40 * (i % 6)) for i in changed},
        ),
        work=o.Work(7.3, 12.0, {"calibrate": 1.25, "search": 8.0}),
    )


def bare() -> o.Outcome:
    """Nothing but what every outcome has."""
    return o.Outcome(
        temper="0.1.0",
        when="2026-11-21T08:00:00+00:00",
        model=o.Source("m.onnx", ""),
        data=o.Data(o.Source("random", ""), 8, 2, synthetic=True),
        machine=o.Machine("cpu", "portable", 1),
        budget=o.Budget("none", None),
        met=True,
        verdict="Everything that can be is INT8, as asked.",
        points=(o.Point("FP32", "float", 0, 1), o.Point("INT8", "chosen", 1, 1)),
    )
