"""Models that ONNX Runtime quantized, built by Temper: what runs as integers, and how near and how fast it is.

    python -m benchmarks.quantized make FOLDER [--zoo FOLDER] [--models NAME ..] [--variants NAME ..]
    python -m benchmarks.quantized report FOLDER [--models ..] [--variants ..] [--seconds 0.5] [--output FILE]

`make` writes FOLDER/<model>.<variant>.onnx and one input beside each model. `report` builds every file at effort 1 and
prints, per file: products computed on codes (of those whose two operands are quantized in the file), host steps, how
far the outputs are from ONNX Runtime's on the same file, and how much faster a run is (--seconds 0: not timed). The
distance is given in units of the largest output, and as a share of ONNX Runtime's own distance from the float model.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

Feeds = dict[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True)
class Variant:
    """How a model is quantized. operators: QLinear* instead of Q/DQ; dynamic: activations at run time."""

    activations: str = "QUInt8"
    weights: str = "QInt8"
    per_channel: bool = False
    operators: bool = False
    reduce_range: bool = False
    dynamic: bool = False


VARIANTS: Mapping[str, Variant] = {
    "qdq_u8s8_channel": Variant(per_channel=True),
    "qdq_u8s8": Variant(),
    "qdq_s8s8_channel": Variant("QInt8", per_channel=True),
    "qdq_u8u8": Variant(weights="QUInt8"),
    "qdq_u8u8_channel": Variant(weights="QUInt8", per_channel=True),
    "qdq_u8s8_reduced": Variant(reduce_range=True, per_channel=True),
    "qop_u8s8_channel": Variant(per_channel=True, operators=True),
    "qop_s8s8": Variant("QInt8", operators=True),
    "qop_u8u8": Variant(weights="QUInt8", operators=True),
    "dynamic_s8": Variant(dynamic=True),
    "dynamic_s8_channel": Variant(dynamic=True, per_channel=True),
    "dynamic_u8": Variant(weights="QUInt8", dynamic=True),
}

ZOO = ("squeezenet", "mobilenetv2", "resnet56_cifar10", "lprnet", "ppocr_cls", "magika", "gpt_nano_sort", "fastestdet")
NETS = ("resnet50", "efficientnet_b0", "yolo", "bert")


def _zoo_case(folder: Path, name: str) -> tuple[Path, list[Feeds]]:
    spec = importlib.util.spec_from_file_location("zoo", folder / "zoo.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules.get("zoo") or importlib.util.module_from_spec(spec)
    if "zoo" not in sys.modules:
        sys.modules["zoo"] = module
        spec.loader.exec_module(module)
    case = module.CASES[name]
    return case.model, list(case.calibration(8))


def _net(folder: Path, name: str) -> tuple[Path, list[Feeds]]:
    if name == "bert":
        import onnx

        from benchmarks.transformers import sample_inputs
        from benchmarks.transformers import save as save_transformer

        path = save_transformer("bert_base_s128", folder)
        model = onnx.load(path, load_external_data=False)
        return path, [sample_inputs(model, seed=i) for i in range(2)]
    from benchmarks.models import save
    from temper.peers import random_inputs

    path = save(name, folder)
    return path, [random_inputs(path, seed) for seed in range(4)]


def _prepared(model: Path, folder: Path) -> Path:
    """The model as ONNX Runtime's quantizer wants it: opset 13 or later, shapes inferred, BatchNormalization folded."""
    import onnx
    from onnx import version_converter
    from onnxruntime.quantization.shape_inference import quant_pre_process

    m = onnx.load(model)
    own = next(o.version for o in m.opset_import if o.domain in ("", "ai.onnx"))
    if own < 13:
        m.ir_version = max(m.ir_version, 8)
        kept = {t.name for t in m.graph.initializer}
        inputs = [i for i in m.graph.input if i.name not in kept]
        del m.graph.input[:]
        m.graph.input.extend(inputs)
        m = version_converter.convert_version(m, 17)
    ready = folder / f"{model.stem}.ready.onnx"
    onnx.save(m, ready)
    quant_pre_process(str(ready), str(ready), skip_symbolic_shape=True)
    return ready


def quantize(ready: Path, batches: Sequence[Feeds], variant: Variant, out: Path) -> None:
    """Writes the quantized model."""
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    kinds = quantization.QuantType
    if variant.dynamic:
        quantization.quantize_dynamic(
            str(ready), str(out), per_channel=variant.per_channel, weight_type=kinds[variant.weights]
        )
        return

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> Feeds | None:
            return next(self.left, None)

    form = quantization.QuantFormat.QOperator if variant.operators else quantization.QuantFormat.QDQ
    quantization.quantize_static(
        str(ready),
        str(out),
        Reader(),
        quant_format=form,
        per_channel=variant.per_channel,
        reduce_range=variant.reduce_range,
        activation_type=kinds[variant.activations],
        weight_type=kinds[variant.weights],
        extra_options={"ActivationSymmetric": variant.activations == "QInt8"},
    )


def make(folder: Path, zoo: Path, models: Sequence[str], variants: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in models:
        with tempfile.TemporaryDirectory() as work:
            model, batches = _zoo_case(zoo, name) if name in ZOO else _net(Path(work), name)
            ready = _prepared(model, Path(work))
            np.savez(folder / f"{name}.npz", **batches[0])
            (folder / f"{name}.float.onnx").write_bytes(ready.read_bytes())
            for v in variants:
                try:
                    quantize(ready, batches, VARIANTS[v], folder / f"{name}.{v}.onnx")
                except Exception as e:
                    print(f"{name} {v}: ONNX Runtime cannot quantize it: {type(e).__name__}: {e}"[:200], flush=True)
                else:
                    print(f"{name} {v}", flush=True)


# ---- report ----

#: ops that multiply, as the passes before the choice of precision leave them, and on codes
_FLOAT = ("Conv", "MatMul", "ConvTranspose", "MatMulInteger", "ConvInteger")


@dataclass(frozen=True)
class Row:
    """One file.

    integer, products: operations of regions that multiply codes, and of all that multiply.
    distance: to ONNX Runtime's outputs, of the largest.
    noise: ONNX Runtime's own distance from the float model.
    ms: Temper, peer.
    """

    model: str
    variant: str
    error: str = ""
    integer: int = 0
    products: int = 0
    share: float = 0.0
    host: tuple[str, ...] = ()
    distance: float = 0.0
    noise: float = 0.0
    ms: tuple[float, float] = (0.0, 0.0)

    def __str__(self) -> str:
        head = f"{self.model:<18}{self.variant:<20}"
        if self.error:
            return f"{head}{self.error[:150]}"
        speed = f"{self.ms[0]:>9.3f}{self.ms[1]:>9.3f}{self.ms[1] / self.ms[0]:>7.2f}x" if self.ms[0] else ""
        return (
            f"{head}{self.integer:>4}/{self.products:<4}{100 * self.share:>6.1f} %{len(self.host):>5} host"
            f"{self.distance:>10.2g}{self.noise:>10.2g}{speed}"
        )


def _far(got: Sequence[Any], want: Sequence[Any]) -> float:
    """Largest difference of any float output, in units of its largest value."""
    worst = 0.0
    for g, w in zip(got, want, strict=True):
        if w.dtype.kind == "f" and w.size:
            worst = max(worst, float(np.abs(g - w).max()) / (float(np.abs(w).max()) or 1.0))
    return worst


def measure(path: Path, cache: Path, seconds: float) -> Row:
    """Builds and runs one file."""
    from temper.builder import build_plan
    from temper.config import BuildConfig
    from temper.errors import TemperError
    from temper.peers import OnnxRuntime, interleaved
    from temper.runtime.engine import Engine

    model, variant, _ = path.name.split(".")
    feeds = dict(np.load(path.parent / f"{model}.npz"))
    try:
        peer = OnnxRuntime().prepare(path, 1)
        want = peer(feeds)
    except Exception as e:
        return Row(model, variant, f"ONNX Runtime cannot run it: {str(e).splitlines()[0]}")
    shapes = {k: tuple(a.shape) for k, a in feeds.items()}
    try:
        config = BuildConfig(threads=1, effort=1 if seconds else 0, cache=cache, shapes=shapes)
        plan = build_plan(path, config).plan
    except TemperError as e:
        return Row(model, variant, f"{type(e).__name__}: {e}")
    engine = Engine(plan)
    got = engine.run(feeds)
    regions = plan.report["regions"]
    anchors = [(str(r["op"]), float(r["operations"])) for r in regions]
    integer = [work for op, work in anchors if "Int8" in op]
    plain = [work for op, work in anchors if op in _FLOAT]
    host = tuple(f"{r['name']}: {r['reason']}" for r in regions if r.get("tactic") == "host")
    exact = OnnxRuntime().prepare(path.parent / f"{model}.float.onnx", 1)(feeds)
    ms = (0.0, 0.0)
    if seconds:
        timed = interleaved({"temper": lambda: engine.run(feeds), "peer": lambda: peer(feeds)}, seconds, patience=1.5)
        ms = (timed["temper"].median, timed["peer"].median)
    return Row(
        model,
        variant,
        integer=len(integer),
        products=len(integer) + len(plain),
        share=sum(integer) / ((sum(integer) + sum(plain)) or 1.0),
        host=host,
        distance=_far(got, want),
        noise=_far(want, exact),
        ms=ms,
    )


def files(folder: Path, models: Sequence[str], variants: Sequence[str]) -> Iterator[Path]:
    for m in models:
        for v in variants:
            if (path := folder / f"{m}.{v}.onnx").exists():
                yield path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "report"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--zoo", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "zoo")
    parser.add_argument("--models", nargs="*", default=[*ZOO, *NETS])
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--seconds", type=float, default=0.0, help="timed per contender and file; 0: not timed")
    parser.add_argument("--cache", type=Path, default=None, help="timing cache")
    parser.add_argument("--output", type=Path, default=None, help="also write the rows as JSON")
    o = parser.parse_args()
    from benchmarks.contest import record

    if o.what == "make":
        make(o.folder, o.zoo, o.models, o.variants)
        return
    head = f"{'model':<18}{'variant':<20}{'integer':>9}{'of work':>9}{'':>9}{'distance':>10}{'noise':>10}"
    print(head + "  ms, ms of the peer")
    rows = []
    for path in files(o.folder, o.models, o.variants):
        rows.append(measure(path, o.cache or o.folder / "cache.sqlite", o.seconds))
        print(rows[-1], flush=True)
        for h in rows[-1].host:
            print(f"    {h[:150]}", flush=True)
    if o.output is not None:
        record(o.output, [{**asdict(r), "model": f"{r.model}.{r.variant}", "threads": 1} for r in rows])


if __name__ == "__main__":
    main()
