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
import json
import sys
import tempfile
import time
from pathlib import Path

import onnx

from benchmarks.contest import Arrays, Entrant, Row, contest, fresh, generated, line, record, table
from benchmarks.quantized_peers import PeerFailed, nncf_quantized, ort_static
from benchmarks.transformers import TRANSFORMERS, sample_inputs
from temper.peers import OnnxRuntime, OpenVino, pin

#: Calibration samples: latency does not depend on their values.
_SAMPLES = 8


def samples(model: Path) -> list[Arrays]:
    """Random inputs, the same for every engine."""
    proto = onnx.load(model, load_external_data=False)
    return [sample_inputs(proto, seed=k) for k in range(1, _SAMPLES + 1)]


def built(model: Path, threads: int, effort: int, folder: Path) -> tuple[Path, float]:
    """The model's INT8 plan in the folder, made if it is not there, and how many seconds making it took."""
    import temper

    plan = folder / f"{model.stem}.{threads}.int8.plan"
    note = plan.with_suffix(".json")
    if not note.exists():
        start = time.perf_counter()
        engine = temper.build(
            model, threads=threads, effort=effort, precision="int8", calibration=samples(model), pure_int8=True
        )
        seconds = time.perf_counter() - start
        temper.save(engine, plan)
        note.write_text(json.dumps({"build_seconds": seconds, "effort": effort}))
    return plan, float(json.loads(note.read_text())["build_seconds"])


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="ONNX files; none: the generated models")
    parser.add_argument("--models", default="resnet50,bert_base_s128,mobilenetv2,efficientnet_b0")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=6.0, help="time per engine")
    parser.add_argument("--effort", type=int, default=2)
    parser.add_argument("--nncf-python", type=Path, help="interpreter of an environment with nncf and openvino")
    parser.add_argument("--folder", type=Path, help="keep plans and the peers' models here, and use those there")
    parser.add_argument("--json", type=Path, help="write results here")
    parser.add_argument("--build", action="store_true", help="make plans and the peers' models only")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build and not args.folder:
        parser.error("--build needs --folder")
    if args.one:
        model, threads = args.files[0], int(args.threads)
        if args.build:
            _, missing = entrants(model, args.folder, args.nncf_python)
            print(json.dumps([built(model, threads, args.effort, args.folder)[1], missing]))
        else:
            print(json.dumps(measure(model, threads, args.seconds, args.effort, args.folder, args.nncf_python)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        files = args.files or [generated(name, Path(temporary)) for name in args.models.split(",")]
        rows: list[Row] = []
        for threads in map(int, args.threads.split(",")):
            for file in files:
                options = ["--one", "--threads", threads, "--folder", folder, "--seconds", args.seconds]
                options += ["--effort", args.effort, *(["--build"] if args.build else []), file]
                options += ["--nncf-python", args.nncf_python] if args.nncf_python else []
                found = fresh("benchmarks.int8", *options)
                if args.build:
                    print(f"{file.stem:24s} {threads} threads  built in {found[0]:.1f} s", *found[1], flush=True)
                    continue
                rows.append(found)
                more = f"(build {found['build_seconds']:.1f} s, neighbours {found['others']:.2f} cores)"
                print(line(found["model"], threads, found["ms"], more, *found["missing"]), flush=True)
    if rows:
        print("\n" + table(rows))
        if args.json:
            record(args.json, rows)


if __name__ == "__main__":
    main()
