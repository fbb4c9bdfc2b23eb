"""INT8 models of other tools, made with their defaults from the same calibration samples: ONNX Runtime's
quantize_static (QDQ, uint8 data, int8 weights per channel) and NNCF's quantize, whose IR file OpenVINO runs.

Each runs as a program of its own with the samples in an .npz file: NNCF may live in another environment, and what the
tools print or raise stays apart.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Batch = Mapping[str, np.ndarray]

#: Arguments: model, samples, result, kind.
_READ = """
import sys
import numpy as np
source, samples, result, kind = sys.argv[1:]
data = np.load(samples)
names = [str(n) for n in data["names"]]
feeds = [{n: data[f"{i}.{j}"] for j, n in enumerate(names)} for i in range(int(data["count"]))]
"""

_ORT = (
    _READ
    + """
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
class Reader(CalibrationDataReader):
    def __init__(self):
        self.rest = iter(feeds)
    def get_next(self):
        return next(self.rest, None)
if kind == "prepared":
    from onnxruntime.quantization.shape_inference import quant_pre_process
    quant_pre_process(source, result, skip_symbolic_shape=True)
    source = result
quantize_static(source, result, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
"""
)

_NNCF = (
    _READ
    + """
import nncf, openvino as ov
model = ov.Core().read_model(source)
def size(n, axis):
    found = {f[n].shape[axis] for f in feeds}
    return found.pop() if len(found) == 1 else -1
if kind != "open":
    model.reshape({n: [size(n, a) for a in range(feeds[0][n].ndim)] for n in names})
more = {"model_type": nncf.ModelType.TRANSFORMER} if kind == "transformer" else {}
ov.save_model(nncf.quantize(model, nncf.Dataset(feeds), subset_size=len(feeds), **more), result, compress_to_fp16=False)
"""
)


class PeerFailed(RuntimeError):
    """A tool made no INT8 model, or one that does not run; the message says what it said."""


def ort_static(model: Path, batches: Sequence[Batch], result: Path, python: Path) -> Path:
    """ONNX Runtime's static quantization by the interpreter `python`; what is at `result` (.onnx) already stays. The
    model first goes through quant_pre_process, as its documentation advises, unless that fails. PeerFailed with the
    tool's message."""
    try:
        return _made(python, _ORT, model, batches, result, "prepared")
    except PeerFailed:
        return _made(python, _ORT, model, batches, result, "")


def nncf_quantized(model: Path, batches: Sequence[Batch], result: Path, python: Path, kind: str = "") -> Path:
    """NNCF's quantization by the interpreter `python`; what is at `result` (.xml) already stays. Sizes are those of the
    samples, open where they differ. kind: "transformer" for that model type; "open" keeps every size as the model has
    it. PeerFailed with the tool's message."""
    return _made(python, _NNCF, model, batches, result, kind)


def _made(python: Path, program: str, model: Path, batches: Sequence[Batch], result: Path, kind: str) -> Path:
    if result.exists():
        return result
    names = list(batches[0])
    with tempfile.TemporaryDirectory() as folder:
        samples, made = Path(folder) / "samples.npz", Path(folder) / result.name
        arrays = {f"{i}.{j}": b[n] for i, b in enumerate(batches) for j, n in enumerate(names)}
        np.savez(samples, names=np.array(names), count=np.array(len(batches)), **arrays)  # type: ignore[arg-type]
        command = [str(python), "-c", program, str(model), str(samples), str(made), kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise PeerFailed((said[-1] if said else f"exit status {done.returncode}")[:200])
        result.parent.mkdir(parents=True, exist_ok=True)
        for file in Path(folder).glob(f"{result.stem}.*"):  # an IR has its weights beside it
            shutil.copy(file, result.parent)
    return result
