"""Details that only the report shows, found out after all decisions: their passes over the data do not count."""

from __future__ import annotations

from temper.errors import ConfigError
from temper.precision import outcome as record
from temper.precision.calibration import Calibration
from temper.precision.divergence import Divergence
from temper.precision.evidence import Evidence
from temper.precision.layer_noise import noise_of_sites, weights_parts
from temper.precision.outcome_builder import OutcomeBuilder
from temper.precision.request import Request
from temper.precision.simulate import Simulator
from temper.precision.trials import Trials

#: Held-back batches that layers are looked at with.
_BATCHES, _PARTS = 8, 2


def details(
    trials: Trials,
    request: Request,
    account: OutcomeBuilder,
    calibration: Calibration | None,
    simulator: Simulator | None,
    chosen: frozenset[str],
) -> None:
    """Times and sensitivities where the choice did not need them, signal to noise in the chosen engine, parts of
    weights and of data, and the divergence of every output; the account gets them."""
    if trials.held is None:
        return
    before, trials.passes = trials.passes, 0.0
    evidence = Evidence(trials, request, account, calibration, simulator)
    try:
        if not account.int8_seconds:
            evidence.problem()
        subject, held = trials.subject, trials.held
        first = [held[i] for i in range(min(_BATCHES, len(held)))]
        on = trials.everything - chosen
        if on:
            account.noise = noise_of_sites(subject.graph, trials.recipe, subject.plain, first, on)
            account.weights_part = weights_parts(evidence.simulated(), trials.reference, first[:_PARTS], on)
    except ConfigError as e:  # weights that a pass rewrites cannot be simulated
        account.warn(f"layers are not looked at one by one: {e}")
    for floats in dict.fromkeys((trials.naive, chosen)):
        label = "all INT8" if floats == trials.naive else "chosen"
        account.heads += tuple(_head(d, label) for d in trials.divergence(floats))
    trials.passes = before


def _head(d: Divergence, engine: str) -> record.Head:
    if not d.answers:
        return record.Head(d.head, engine, d.noise)
    return record.Head(d.head, engine, d.noise, d.loss, d.changed, d.information, d.tail, d.flips, d.answers)
