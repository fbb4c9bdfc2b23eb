"""An INT8 build, step by step: float graph -> calibration -> recipe -> search -> plan, and its record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from temper.builder import Build
from temper.config import BuildConfig
from temper.errors import ConfigError
from temper.precision.answered import Answered
from temper.precision.audit import audit
from temper.precision.calibrated import Observed, observed
from temper.precision.calibrators import algorithm_of, opened, read_cache, write_cache
from temper.precision.compensated import Compensated, compensated
from temper.precision.costs import timed
from temper.precision.decide import decide
from temper.precision.details import details
from temper.precision.outcome import Outcome
from temper.precision.outcome_builder import OutcomeBuilder
from temper.precision.request import Request
from temper.precision.subject import Subject
from temper.precision.thresholds import Thresholds, known_names, read_cache_file, resolve, rows
from temper.precision.trials import Memory, Trials, recipe_digest
from temper.profiles import Model
from temper.quantize.float8 import DTYPE
from temper.quantize.placement import narrow_parts
from temper.quantize.recipe import Recipe
from temper.quantize.source_names import to_cache
from temper.tune.select import Progress

#: Takes a line for the user.
Say = Callable[[str], None]

#: Seconds to time each whole engine at the end, by effort; 1 at others.
_SECONDS = {0: 0.05, 1: 0.3}


@dataclass(frozen=True, eq=False)
class Made:
    """A finished INT8 build. recipe: what is in INT8; None where nothing is. answered: by sample, if asked for."""

    build: Build
    recipe: Recipe | None
    outcome: Outcome
    answered: Answered | None = None


def build_int8(
    model: Model,
    config: BuildConfig,
    request: Request,
    *,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Made:
    """Builds the fastest INT8 engine that keeps the budget. Raises TemperError kinds only; a budget that cannot be met
    is no error: the outcome says so, and names what is to blame."""
    start = time.perf_counter()
    if config.stop_after:
        raise ConfigError("an INT8 build cannot stop after a pass: build in float to look at passes")
    subject = Subject.of(model, config, request.keep, request.form)
    if request.form == "float8" and not subject.target.multiplies(DTYPE):
        raise ConfigError(
            f"precision='fp8' (--fp8) multiplies 8-bit floats, which {config.device} does not: that takes a GPU of "
            "level sm_89 or later; choose int8 or fp16"
        )
    account = OutcomeBuilder(subject, request, say or (lambda line: None))
    if subject.pins.fp16 and not subject.target.widens:
        raise ConfigError("--keep ...=fp16: a CPU has no float16 arithmetic worth using; pin to fp32 or bf16")
    if subject.absent:
        account.warn(
            f"{config.device} is not in this machine: nothing was timed, layers were chosen by the cost model's times, "
            "and the CPU's engines computed what was looked at"
        )
    if subject.pins.fp8 and not subject.target.multiplies(DTYPE):
        raise ConfigError(f"--keep ...=fp8: {config.device} does not multiply 8-bit floats; pin to fp32 or a half type")
    if idle := sorted(subject.pins.fp8 - subject.eights):
        account.warn(f"--keep ...=fp8: {', '.join(idle[:3])}{' ...' * (len(idle) > 3)} cannot be in 8-bit floats")
    for pattern in subject.pins.idle:
        account.warn(f"--keep '{pattern}' pins nothing: what it matches is float anyway")
    if idle := sorted(subject.pins.bf16 - subject.halves):
        account.warn(
            f"--keep ...=bf16: {', '.join(idle[:3])}{' ...' * (len(idle) > 3)} in float32, since the code level has no "
            "faster products of bfloat16 for it"
        )
    data = _observed(subject, request, account, progress) if request.calibration is not None and subject.on else None
    if not subject.on:
        account.met = True
        trials = Trials(subject, Recipe(frozenset(), {}), None, Memory(), progress)
        account.verdict = _nothing(subject, request.word)
        return _made(trials, trials.everything, account, start)
    held = data.held if data is not None else None
    found = _thresholds(subject, request, account, data)
    amax = found.amax
    reach = {t: h.amax for t, h in data.calibration.histograms.items()} if data is not None else amax
    apart = narrow_parts(subject.graph, reach) if request.form == "int8" else frozenset()
    recipe = Recipe(subject.on, amax, apart=apart, form=request.form)
    made = Compensated(recipe)
    noise = data is not None and data.samples.synthetic and request.cache is not None
    if noise:
        account.say("no compensation: the cache's thresholds are of data, the inputs given are random")
    if data is not None and request.compensate and request.form == "int8" and not noise:
        alternatives = {t: c.alternatives for t, c in found.chosen.items()}
        made = compensated(
            subject, recipe, request, account, data.part, data.held, data.calibration, alternatives
        )
        recipe = made.recipe

    def about() -> list[str]:
        found = [subject.graph.hash(), recipe_digest(recipe), held.digest if held is not None else ""]
        found += [str(config.isa), str(request.bounds.as_dict())]
        found += [config.device, config.precision] if subject.target.widens else []
        return found + [",".join(sorted(x)) for x in (subject.pins.fp32, subject.pins.fp8)]

    trials = Trials(subject, recipe, held, Memory(request.work, about), progress, made.passes, reach)
    chosen = decide(trials, request, account, data.calibration if data is not None else None, made.simulator)
    if request.answers:
        details(trials, request, account, data.calibration if data is not None else None, made.simulator, chosen)
    return _made(trials, chosen, account, start)


def _observed(subject: Subject, request: Request, account: OutcomeBuilder, progress: Progress | None) -> Observed:
    start = time.perf_counter()
    found = observed(
        subject,
        opened(request.calibration),
        preprocess=request.preprocess,
        skip_bad=request.skip_bad,
        work=request.work,
        progress=progress,
        told=account.samples,
    )
    account.seconds["calibrate"] = time.perf_counter() - start
    return found


def _thresholds(subject: Subject, request: Request, account: OutcomeBuilder, data: Observed | None) -> Thresholds:
    """Of every tensor that may carry codes; the account gets the audit of the data and what was found out."""
    calibration = data.calibration if data is not None else None
    given = data.source if data is not None else None
    algorithm = request.calibrator if request.calibrator != "auto" else algorithm_of(given)
    if request.form == "float8" and algorithm == "auto":
        algorithm = "minmax"  # steps are relative: clipping gains nothing
    source = "the calibrator's cache" if request.cache is None else str(request.cache)
    cache = read_cache_file(request.cache) if request.cache is not None else read_cache(given)
    known = known_names(subject.parsed, subject.graph) if cache is not None else frozenset()
    found = resolve(subject.graph, subject.tensors, algorithm, calibration, cache, source, known)
    for remark in found.remarks:
        account.warn(remark)
    account.tensors = rows(subject.graph, found, calibration)
    if data is not None:
        account.histograms = data.calibration.histograms
        account.audit = audit(data.samples, data.part, subject.graph, data.calibration, found)
        for finding in account.audit.findings:
            if finding.severity == "warning" and finding.kind not in ("synthetic", "skipped"):
                account.warn(finding.message)
        if cache is None:
            write_cache(given, to_cache(subject.graph, found.amax, algorithm))
    return found


def _nothing(subject: Subject, word: str) -> str:
    reasons = [f"{', '.join(n[:3])}{' ...' * (len(n) > 3)}: {why}" for why, n in subject.why_not().items()]
    if subject.sites:
        return f"nothing is {word}: every layer that could be is pinned to float"
    return f"nothing in this model can be {word}" + (f" ({'; '.join(reasons)})" if reasons else ": it has no products")


def _made(trials: Trials, floats: frozenset[str], account: OutcomeBuilder, start: float) -> Made:
    """The chosen build, with a summary of the outcome in its plan's report. start: when the whole began, by
    `time.perf_counter`."""
    build = trials.final(floats)
    account.point(trials, floats, "tried", "chosen")
    feeds = trials.feeds()
    if feeds is not None and not trials.subject.absent:
        wanted = dict.fromkeys((trials.everything, trials.naive, floats))
        if trials.subject.target.widens:
            wanted.pop(trials.everything, None)  # it is not tuned there
        plans = {k: trials.build(k).plan for k in wanted}
        config = trials.subject.config
        for k, seconds in timed(plans, feeds, _SECONDS.get(config.effort, 1.0), config.device).items():
            account.timed(k, seconds)
    account.choose(floats)
    known = sum(account.seconds.values()) + sum(s for k, s in build.seconds.items() if not k.startswith("cache_"))
    account.seconds["search"] = max(0.0, time.perf_counter() - start - known)
    outcome = account.outcome(trials, floats)
    plan = replace(build.plan, report={**build.plan.report, "int8": account.summary(outcome)})
    recipe = trials.recipe.without(floats)
    request = account.request
    answered = trials.answered(floats, request.evaluate) if request.answers else None
    build = replace(build, plan=plan, seconds={**account.seconds, **build.seconds})
    return Made(build, recipe if recipe.sites else None, outcome, answered)


