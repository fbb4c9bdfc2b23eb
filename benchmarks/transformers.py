"""Benchmark transformers as ONNX models: published architectures, random weights, fixed seeds, exporters' idioms.

``python -m benchmarks.transformers OUTDIR [names]`` writes models and prints parameter and multiply-accumulate counts
next to the published ones, and what ONNX Runtime computes from random inputs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from benchmarks.costs import model_cost
from benchmarks.transformer_bert import BERT_BASE, BERT_LARGE, bert, bert_tf
from benchmarks.transformer_nets import gpt2_step, vit, whisper_encoder
from benchmarks.transformer_parts import AnyArray, Size


@dataclass(frozen=True)
class Published:
    """Parameters and multiply-accumulates (counts) of a publication; None where it gives none."""

    parameters: float
    macs: float | None = None


#: Every entry takes ``batch``; all but the images', Whisper's and GPT-2's take ``sequence`` too.
TRANSFORMERS: dict[str, Callable[..., ModelProto]] = {
    "bert_base_s128": partial(bert, BERT_BASE, 128),
    "bert_base_s384": partial(bert, BERT_BASE, 384),
    "bert_large_s128": partial(bert, BERT_LARGE, 128),
    "bert_large_s384": partial(bert, BERT_LARGE, 384),
    "bert_base_s128_shapes": partial(bert, BERT_BASE, 128, arithmetic=True),
    "bert_base_s128_opset17": partial(bert, BERT_BASE, 128, opset=17, sdpa=True),
    "bert_base_s128_tf": partial(bert_tf, BERT_BASE, 128, einsum=False),
    "bert_base_s128_keras": partial(bert_tf, BERT_BASE, 128, einsum=True, gelu="erf"),
    "vit_b16": vit,
    "gpt2_step": gpt2_step,
    "whisper_tiny_encoder": whisper_encoder,
}

#: Parameters: Hugging Face's checkpoints (the encoder's share for Whisper). Multiply-accumulates: half of the
#: operations in MobileBERT's table for BERT-base (22.5e9), in ELECTRA's for BERT-large (7.9e10), both at sequence
#: length 128; torchvision's figure for ViT-B/16; OpenAI's Kaplan et al. C = 2 N for GPT-2, with the output layer.
PUBLISHED: dict[str, Published] = {
    **dict.fromkeys(
        ("bert_base_s128", "bert_base_s128_shapes", "bert_base_s128_opset17"), Published(109.48e6, 11.25e9)
    ),
    **dict.fromkeys(("bert_base_s128_tf", "bert_base_s128_keras"), Published(109.48e6 - 0.59e6, 11.25e9)),
    "bert_base_s384": Published(109.48e6),
    "bert_large_s128": Published(335.14e6, 39.5e9),
    "bert_large_s384": Published(335.14e6),
    "vit_b16": Published(86.57e6, 17.56e9),
    "gpt2_step": Published(124.44e6, 123.6e6),
    "whisper_tiny_encoder": Published(8.21e6),
}

#: onnx's shape inference cannot follow Shape arithmetic: the twin with constant shapes is counted.
COUNTED_AS = {"bert_base_s128_shapes": "bert_base_s128"}


def save(name: str, folder: Path | str, batch: Size = 1) -> Path:
    """Build ``name``, check it, write it to ``folder``/``name``[_bN].onnx and return that path."""
    model = TRANSFORMERS[name](batch=batch)
    onnx.checker.check_model(model, full_check=True)
    path = Path(folder) / f"{name}{'' if batch == 1 else f'_b{batch}'}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def sample_inputs(model: ModelProto, sizes: dict[str, int] | None = None, seed: int = 1) -> dict[str, AnyArray]:
    """Inputs by name: normal floats, small token numbers, masks that hide each row's first keys but never its last.

    ``sizes``: symbolic dimension -> size; a dimension "P + 1" follows P.  Dimensions without a size are 2.
    """
    rng = np.random.default_rng(seed)
    sizes = dict(sizes or {})
    sizes.update({f"{name} + 1": size + 1 for name, size in list(sizes.items())})
    inputs: dict[str, AnyArray] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value or sizes.get(dim.dim_param, 2) for dim in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if np.issubdtype(dtype, np.floating):
            array = rng.standard_normal(shape).astype(dtype)
        elif "mask" in value.name:
            hidden = rng.integers(0, shape[1] // 2 + 1, shape[0])
            array = (np.arange(shape[1]) >= hidden[:, None]).astype(dtype)
        else:
            array = rng.integers(0, 2, shape).astype(dtype)
        inputs[value.name] = array
    return inputs


def output_summary(path: Path) -> str:
    """Run a saved model in ONNX Runtime on sample inputs; the first output's range. ValueError: it is not finite."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(None, sample_inputs(onnx.load(path)))
    names = [value.name for value in session.get_outputs()]
    if not all(np.isfinite(output).all() for output in outputs):
        raise ValueError(f"{path.name}: an output is not finite")
    main = next(i for i, name in enumerate(names) if not name.startswith("present."))
    y = outputs[main]
    return f"{names[main]} {y.shape} in [{y.min():.3g}, {y.max():.3g}], std {y.std():.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("names", nargs="*", default=list(TRANSFORMERS), help="models to write (all)")
    options = parser.parse_args()
    print(f"{'model':<24}{'params M':>9}{'(publ.)':>9}{'GMAC':>9}{'(publ.)':>9}  output on noise, ONNX Runtime")
    for name in options.names:
        path = save(name, options.outdir)
        twin = COUNTED_AS.get(name)
        cost = model_cost(TRANSFORMERS[twin]() if twin else onnx.load(path))
        published = PUBLISHED[name]
        macs = "-" if published.macs is None else f"{published.macs / 1e9:.3f}"
        print(
            f"{name:<24}{cost.parameters / 1e6:>9.2f}{published.parameters / 1e6:>9.2f}"
            f"{cost.macs / 1e9:>9.3f}{macs:>9}  {output_summary(path)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
