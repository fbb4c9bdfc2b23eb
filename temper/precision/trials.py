"""Trial engines of a search: built, compared with the float engine on held-back samples, scored, and timed.

Results are kept under a name of the choice of sites, also in a file if there is a folder for it, so that an interrupted
search repeats nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from temper.builder import Build, build_plan
from temper.config import BuildConfig
from temper.errors import BuildError
from temper.precision.answered import Answered, Score, of_samples, of_scores
from temper.precision.data import Samples
from temper.precision.divergence import Divergence, Reference
from temper.precision.output_kinds import heads
from temper.precision.request import Evaluate, Metric, name_of
from temper.precision.subject import Subject
from temper.quantize.recipe import Recipe
from temper.runtime.engine import Engine
from temper.tune.select import Progress

#: Rises when what is measured changes, so that values of earlier versions are not taken for it.
_FORMAT = 7

#: Begins the second name of a site in 8-bit floats.
_MARK = "\0float8 "

#: Builds kept in memory: the float one, the best and the one in hand. Others are made again, from the timing cache.
_KEPT = 3


@dataclass
class Memory:
    """Values of a search by key, in a JSON file that is replaced as a whole; without a folder in memory only.

    about: all that the values depend on; it is asked when the first of them is.
    """

    folder: Path | None = None
    about: Callable[[], Sequence[str]] = tuple

    @cached_property
    def path(self) -> Path | None:
        if self.folder is None:
            return None
        key = hashlib.sha256(chr(0).join((str(_FORMAT), *self.about())).encode()).hexdigest()[:24]
        return self.folder / f"search-{key}.json"

    @cached_property
    def values(self) -> dict[str, Any]:
        """Those of earlier searches at first: none if the file is damaged."""
        try:
            found = {} if self.path is None else json.loads(self.path.read_text())
        except (OSError, ValueError):
            found = {}
        return found if isinstance(found, dict) else {}

    def beside(self, about: str) -> Memory:
        """Another memory, of a search that depends on this too."""
        return Memory(self.folder, lambda: (self.path.name if self.path is not None else "", about))

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """The value, made and kept if there is none."""
        if key not in self.values:
            self.values[key] = make()
            self.write()
        return self.values[key]

    def write(self) -> None:
        """BuildError says why the file cannot be written."""
        if self.path is None:
            return
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self.values))
            os.replace(temporary, self.path)
        except OSError as e:
            raise BuildError(f"the state of the search cannot be kept in {self.path.parent}: {e.strerror}") from e
        finally:
            temporary.unlink(missing_ok=True)


def recipe_digest(recipe: Recipe) -> str:
    """Hash of everything in a recipe."""
    h = hashlib.sha256()

    def add(*parts: object) -> None:
        for p in parts:
            data = np.ascontiguousarray(p).tobytes() if isinstance(p, np.ndarray) else repr(p).encode()
            h.update(f"{len(data)}:".encode() + data)

    for name, value in sorted(vars(recipe).items()):
        if isinstance(value, Mapping):
            for k in sorted(value, key=str):
                add(name, k, value[k])
        else:
            add(name, sorted(value, key=str) if isinstance(value, (frozenset, set)) else value)
    return h.hexdigest()


def with_eights(floats: frozenset[str], names: Collection[str]) -> frozenset[str]:
    """The choice, with these of its sites in float computed in 8-bit floats."""
    return frozenset(n for n in floats if not n.startswith(_MARK)) | {_MARK + n for n in names}


def marked(floats: frozenset[str]) -> frozenset[str]:
    """The sites that a choice computes in 8-bit floats, but for those pinned to it."""
    return frozenset(n.removeprefix(_MARK) for n in floats if n.startswith(_MARK))


@dataclass
class Trials:
    """Engines by the sites that are not on. recipe: with every site on that is not pinned to another precision.

    A choice is a set of names of sites; those in 8-bit floats instead of float are in it a second time, marked
    (`with_eights`).

    reach: largest magnitude of tensors, for these.
    passes: of the model over the held-back samples that were run so far.
    scores: what the evaluation told of samples.
    """

    subject: Subject
    recipe: Recipe
    held: Samples | None
    memory: Memory
    progress: Progress | None = None
    passes: float = 0.0
    reach: Mapping[str, float] = field(default_factory=dict)
    scores: dict[frozenset[str], Score] = field(default_factory=dict)
    _builds: OrderedDict[frozenset[str], Build] = field(default_factory=OrderedDict)
    _float: Build | None = None
    _reference: Reference | None = None

    @property
    def everything(self) -> frozenset[str]:
        """The names of all sites: the choice that leaves all of them in float."""
        return frozenset(s.name for s in self.subject.sites)

    @property
    def naive(self) -> frozenset[str]:
        """The sites in float where all others are in INT8."""
        return self.everything - self.recipe.sites

    def halves(self, floats: frozenset[str]) -> frozenset[str]:
        """Of the sites in float, those in bfloat16. Where all are in float only what is pinned to it: everything in
        float32 is what others are compared with."""
        able = self.subject.halves & floats
        if floats >= self.recipe.sites and not self.subject.target.widens:
            return able & self.subject.pins.halves
        return able

    def eights(self, floats: frozenset[str]) -> dict[str, float]:
        """Of the sites that are not on, those in 8-bit floats, with the largest magnitude of their data. A scale that
        is too large costs E4M3 nothing, one that is too small clips."""
        chosen = ((self.subject.pins.fp8 | marked(floats)) & floats) & self.subject.eights
        data = {s.name: s.tensors[0] for s in self.subject.sites if s.name in chosen and s.tensors}
        known = (self.reach, self.recipe.amax)
        found = {n: [m[t] for m in known if t in m] for n, t in data.items()}
        return {n: max(x) for n, x in found.items() if x}

    def final(self, floats: frozenset[str]) -> Build:
        """The engine that a search ends with: `build`, but with what is in a half type although nothing is INT8, and
        for the target where that is not here."""
        subject = self.subject
        other = floats >= self.recipe.sites and (subject.target.widens or bool(self.halves(floats)))
        if subject.absent or subject.several or other:
            return self._made(self.subject.chosen, self._recipe(floats))
        return self.build(floats)

    def _recipe(self, floats: frozenset[str]) -> Recipe | None:
        """What is left of the recipe. A GPU's passes know themselves what is in a half type."""
        halves = frozenset() if self.subject.target.widens else self.halves(floats)
        recipe = replace(self.recipe.without(floats), halves=halves, eights=self.eights(floats))
        return recipe if recipe.sites or recipe.halves or recipe.eights else None

    def _made(self, config: BuildConfig, recipe: Recipe | None) -> Build:
        return build_plan(self.subject.parsed, config, progress=self.progress, quantize=recipe)

    def build(self, floats: frozenset[str]) -> Build:
        """The engine with these sites in float, on this machine; with all of them the float32 one."""
        if floats >= self.recipe.sites and not marked(floats):
            if self._float is None:
                self._float = self._made(self.subject.exact, None)
            return self._float
        if floats not in self._builds:
            self._builds[floats] = self._made(self.subject.held_wide(self.subject.here), self._recipe(floats))
            while len(self._builds) > _KEPT:
                self._builds.popitem(last=False)
        self._builds.move_to_end(floats)
        return self._builds[floats]

    def quick(self) -> Build:
        """The target's engine with all that may be in INT8."""
        return self.aimed(self.naive)

    def aimed(self, floats: frozenset[str]) -> Build:
        """The target's engine of a choice, of one profile."""
        if self.subject.absent:
            return self._made(self.subject.one, self._recipe(floats))
        return self.build(floats)

    def higher(self) -> Build:
        """The target's engine with every site in the precision it has where it is not INT8."""
        if self.subject.target.widens:
            return self._made(self.subject.one, None)
        if not self.subject.halves:
            return self.build(self.everything)
        recipe = replace(self.recipe, sites=frozenset(), halves=self.subject.halves)
        return self._made(self.subject.config, recipe)

    def outputs(self, floats: frozenset[str]) -> list[list[np.ndarray]]:
        """Of every held-back batch."""
        return self.run(Engine(self.build(floats).plan))

    def run(self, engine: Engine) -> list[list[np.ndarray]]:
        """Outputs of an engine on every held-back batch."""
        if self.held is None:
            return []
        self.passes += 1
        names = [s.name for s in engine.inputs]
        return [[np.array(y) for y in engine.run({n: batch[n] for n in names})] for batch in self.held]

    @property
    def reference(self) -> Reference:
        """What the float engine answers."""
        if self._reference is None:
            self._reference = Reference(heads(self.subject.graph), self.outputs(self.everything))
        return self._reference

    def divergence(self, floats: frozenset[str]) -> tuple[Divergence, ...]:
        """Of the engine from the float one, by head; none without held-back samples."""
        if self.held is None or not self.reference.heads:
            return ()
        if floats >= self.recipe.sites and not marked(floats):
            return self.reference.compare(self.reference.outputs)

        def measure() -> list[dict[str, Any]]:
            return [d.as_dict() for d in self.reference.compare(self.outputs(floats))]

        rows = self.memory.get(f"divergence {self.key(floats)}", measure)
        return tuple(Divergence(**r) for r in rows)

    def score(self, metric: Metric, floats: frozenset[str]) -> float:
        """The user's score of the engine."""

        def measure() -> float:
            score = metric.score(Engine(self.build(floats).plan))
            if metric.last is not None:
                self.scores[floats] = metric.last
            return score

        return float(self.memory.get(f"score {metric.name} {self.key(floats)}", measure))

    def answered(self, floats: frozenset[str], evaluate: Evaluate | None) -> Answered | None:
        """What the float engine, that of all INT8 and the chosen one answer: on the user's samples if the evaluation
        tells them, else on those held back. Not counted among the passes: it decides nothing."""
        if evaluate is not None and self.scores:
            metric = Metric(evaluate, name_of(evaluate))
            for choice in (self.everything, floats):
                if choice not in self.scores:  # its score was known from an interrupted search
                    metric.score(Engine(self.build(choice).plan))
                    if metric.last is not None:
                        self.scores[choice] = metric.last
            if {self.everything, floats} <= self.scores.keys():
                naive = self.scores.get(self.naive)
                return of_scores(self.scores[self.everything], self.scores[floats], naive, f"samples of {metric.name}")
        if self.held is None:
            return None
        before = self.passes
        chosen, naive_outputs = self.outputs(floats), self.outputs(self.naive)
        found = of_samples(self.held, self.reference.heads, self.reference.outputs, chosen, naive_outputs)
        self.passes = before
        return found

    def feeds(self) -> dict[str, np.ndarray] | None:
        """The first held-back batch, to time engines on."""
        return None if self.held is None else self.held[0]

    @staticmethod
    def key(floats: frozenset[str]) -> str:
        """A choice as a key."""
        return hashlib.sha256("\n".join(sorted(floats)).encode()).hexdigest()[:24]
