"""The trained models of the zoo as benchmark cases: calibration samples, score, what one answer is, and the bar.

The zoo is a folder with a scorer, `zoo.py`, and is not part of this repository: see --zoo of the programs.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from temper.config import Profile
from temper.peers import Runner

Batch = Mapping[str, np.ndarray]
#: What a run of the model answers, one entry a sample.
Answers = Callable[[Sequence[np.ndarray]], list[bytes]]

#: Share of the scored samples that may be lost, one sample if that is less; and dB where the score is in dB.
BAR, BAR_DB = 0.003, 0.3


@dataclass(frozen=True)
class ZooCase:
    """models: files, most cases have one.
    batches: calibration samples of each.
    score: of one runner a model, higher is better.
    scored: samples; 0 where the score is in dB.
    options: of `temper.build`, by model.
    answers: of a run's outputs, None where a sample's answer is not a class.
    """

    name: str
    metric: str
    models: tuple[Path, ...]
    batches: tuple[list[Batch], ...]
    score: Callable[[Sequence[Runner]], float]
    scored: int
    options: tuple[dict[str, Any], ...]
    answers: Answers | None

    @property
    def bar(self) -> float:
        """How much of the score may be lost."""
        return max(BAR, 1 / self.scored) if self.scored else BAR_DB


@dataclass
class Recorder:
    """A runner that keeps what was answered."""

    run: Runner
    answers: Answers | None
    seen: list[bytes] = field(default_factory=list)

    def __call__(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        # a peer's arrays may be views of buffers that its next run overwrites
        outputs = [np.array(y) for y in self.run(feeds)]
        if self.answers is not None:
            self.seen += self.answers(outputs)
        return outputs


def default_zoo() -> Path:
    """TEMPER_ZOO, or shared/zoo beside the checkout."""
    given = os.environ.get("TEMPER_ZOO")
    return Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "zoo"


def load_zoo(folder: Path) -> ModuleType:
    """The scorer; ends the program if it is not there."""
    spec = importlib.util.spec_from_file_location("zoo", folder / "zoo.py")
    if spec is None or spec.loader is None or not (folder / "zoo.py").exists():
        sys.exit(f"there is no zoo.py in {folder}: give the zoo's folder with --zoo")
    module = importlib.util.module_from_spec(spec)
    sys.modules["zoo"] = module  # its dataclasses look it up
    spec.loader.exec_module(module)
    return module


def _classes(axis: int) -> Answers:
    """The class of largest value along `axis` of the first output, over all its positions, for every row."""
    return lambda outputs: [row.tobytes() for row in outputs[0].argmax(axis).astype(np.int16)]


def _text(outputs: Sequence[np.ndarray]) -> list[bytes]:
    """What a CTC head reads: the best class of every step, repeats joined, the last class (blank) dropped."""
    rows = []
    blank = outputs[0].shape[1] - 1
    for steps in outputs[0].argmax(1):
        pairs = zip(steps, (blank, *steps[:-1]), strict=True)
        rows.append(bytes(int(c) for c, before in pairs if c not in (blank, before)))
    return rows


def _last(outputs: Sequence[np.ndarray]) -> list[bytes]:
    """The next token."""
    return [row.tobytes() for row in outputs[0][:, -1].argmax(-1).astype(np.int16)]


#: Samples scored, what one answers, and what a build has to be told.
_ABOUT: Mapping[str, tuple[int, Answers | None, dict[str, Any]]] = {
    "squeezenet": (400, lambda outputs: [outputs[0].argmax().tobytes()], {}),
    "mobilenetv2": (400, _classes(1), {}),
    "resnet56_cifar10": (5000, _classes(1), {"profiles": [Profile.of(N=1), Profile.of(N=100)]}),
    "lprnet": (800, _text, {}),
    "ppocr_cls": (1000, _classes(1), {}),
    "magika": (1252, _classes(1), {}),
    "gpt_nano_sort": (729, _last, {"profiles": [Profile.of(B=1, T=(6, 8, 11))]}),
    "fastestdet": (78, None, {}),
}

NAMES = (*_ABOUT, "dtln")


def load_case(zoo: ModuleType, name: str, samples: int, reference: Callable[[Path], Runner]) -> ZooCase:
    """A case by name. samples: at most, for calibration. reference: runs a model in FP32; dtln's calibration samples
    are what flows between its two models."""
    if name == "dtln":
        models = tuple(zoo.MODELS / f"dtln_{i}.onnx" for i in (1, 2))
        batches = zoo.dtln_calibration(*map(reference, models), samples)
        return ZooCase(
            name,
            "SI-SDR, dB",
            models,
            tuple(batches),
            lambda runs: float(zoo.dtln_score(*runs)),
            0,
            tuple({"shapes": _shapes(b)} for b in batches),
            None,
        )
    if name not in _ABOUT:
        sys.exit(f"there is no case '{name}'; choose from {', '.join(NAMES)}")
    case = zoo.CASES[name]
    scored, answers, options = _ABOUT[name]
    found = list(case.calibration(samples))
    return ZooCase(
        name,
        case.metric,
        (case.model,),
        (found,),
        lambda runs: float(case.score(runs[0])),
        scored,
        (options or {"shapes": _shapes(found)},),
        answers,
    )


def _shapes(batches: Sequence[Batch]) -> dict[str, tuple[int, ...]]:
    return {name: x.shape for name, x in batches[0].items()}
