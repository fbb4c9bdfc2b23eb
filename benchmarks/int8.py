"""INT8 latency on a CPU: Temper with everything in INT8 against ONNX Runtime's static quantization and OpenVINO with
NNCF's, taking turns within one run.

    python -m benchmarks.int8 --nncf-python OTHER_ENVIRONMENT/bin/python --folder FOLDER
    python -m benchmarks.int8 --models resnet50,vit_b16 --threads 1 --folder FOLDER  # default: four models, 1 and 2
    python -m benchmarks.int8 --folder FOLDER --build       # make all files now, on any machine load; time later

All three quantize the same generated model from the same random samples. Every thread count runs in a fresh process
pinned to as many cores. FOLDER keeps plans and the peers' INT8 models; without --nncf-python OpenVINO runs those that
are there. Prints medians (ms) and Temper's speed against the better peer; --json writes them with machine and versions.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import onnx

from benchmarks.contest import Arrays, Entrant, Row, contest, drive, kept, options
from benchmarks.quantized_peers import PeerFailed, nncf_quantized, ort_static
from benchmarks.transformers import TRANSFORMERS, sample_inputs
from temper.peers import OnnxRuntime, OpenVino, pin
from temper.runtime.engine import Engine

#: Calibration samples: latency does not depend on their values.
_SAMPLES = 8


def samples(model: Path) -> list[Arrays]:
    """Random inputs, the same for every engine."""
    proto = onnx.load(model, load_external_data=False)
    return [sample_inputs(proto, seed=k) for k in range(1, _SAMPLES + 1)]


def built(model: Path, threads: int, effort: int, folder: Path) -> tuple[Path, float]:
    """The model's INT8 plan in the folder, and how many seconds making it took."""
    import temper

    def build() -> Engine:
        return temper.build(
            model, threads=threads, effort=effort, precision="int8", calibration=samples(model), pure_int8=True
        )

    return kept(folder / f"{model.stem}.{threads}.int8.plan", effort, build)


def entrants(model: Path, folder: Path, nncf: Path | None) -> tuple[list[Entrant], list[str]]:
    """The peers with their INT8 models, made where they are not there; and why a peer is missing."""
    kind = "transformer" if model.stem in TRANSFORMERS else ""
    batches = samples(model)
    found, missing = [], []
    try:
        made = ort_static(model, batches, folder / f"{model.stem}.ort.onnx", Path(sys.executable))
        found.append(Entrant(OnnxRuntime(), made))
    except PeerFailed as e:
        missing.append(f"onnxruntime: {e}")
    ir = folder / f"{model.stem}.nncf.xml"
    try:
        if nncf is not None:
            nncf_quantized(model, batches, ir, nncf, kind)
        if ir.exists():
            found.append(Entrant(OpenVino(), ir))
        else:
            missing.append(f"openvino: there is no {ir.name}; give --nncf-python")
    except PeerFailed as e:
        missing.append(f"openvino: {e}")
    return found, missing


def measure(model: Path, threads: int, seconds: float, effort: int, folder: Path, nncf: Path | None) -> Row:
    """One model at one thread count, in this process."""
    import temper
    from temper.runtime.machine import cpu_name

    plan, build_seconds = built(model, threads, effort, folder)
    peers, missing = entrants(model, folder, nncf)
    pin(threads)
    engine = temper.load(plan)
    feeds = samples(model)[0]
    ours = dict(zip((s.name for s in engine.inputs), feeds.values(), strict=True))
    found = contest(lambda: engine.run(ours), feeds, peers, threads, seconds)
    return {
        "model": model.stem,
        "threads": threads,
        "ms": found.ms,
        "p10": found.p10,
        "others": found.others,
        "build_seconds": build_seconds,
        "plan_bytes": plan.stat().st_size,
        "versions": found.versions,
        "missing": [*missing, *found.missing],
        "cpu": cpu_name(),
    }


def _build(args: argparse.Namespace, model: Path, threads: int) -> tuple[float, list[str]]:
    _, missing = entrants(model, args.folder, args.nncf_python)
    return built(model, threads, args.effort, args.folder)[1], missing


def _measure(args: argparse.Namespace, model: Path, threads: int) -> Row:
    return measure(model, threads, args.seconds, args.effort, args.folder, args.nncf_python)


def _more(args: argparse.Namespace) -> list[object]:
    return ["--nncf-python", args.nncf_python] if args.nncf_python else []


def main() -> None:
    parser = options(__doc__, "resnet50,bert_base_s128,mobilenetv2,efficientnet_b0", 6.0)
    parser.add_argument("--nncf-python", type=Path, help="interpreter of an environment with nncf and openvino")
    drive("benchmarks.int8", parser, _build, _measure, _more)


if __name__ == "__main__":
    main()
