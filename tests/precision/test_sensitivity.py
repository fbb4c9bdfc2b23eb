"""Sensitivities from a stand-in for the simulator: right order, and no more work than is allowed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import pytest

from temper.precision.data import Samples, samples_of
from temper.precision.divergence import Reference
from temper.precision.output_kinds import Head
from temper.precision.sensitivity import losses

BATCHES = 16


class Noisy:
    """y = x plus noise, whose size is that of the sites that are on; switching a site repeats half of the steps."""

    def __init__(self, sizes: Mapping[str, float]) -> None:
        self.sizes, self.work = sizes, 0.0
        self.rng = np.random.default_rng(0)

    def sweep(
        self, batch: Mapping[str, np.ndarray], sites: Collection[str] | None = None, base: Collection[str] = ()
    ) -> Iterator[tuple[str, list[np.ndarray]]]:
        for name in self.sizes:
            if sites is not None and name not in sites:
                continue
            on = set(base) ^ {name}
            size = np.sqrt(sum(self.sizes[n] ** 2 for n in on))
            self.work += 0.5
            x = batch["x"]
            yield name, [x + (size * self.rng.standard_normal(x.shape)).astype(np.float32)]


@pytest.fixture(scope="module")
def held() -> Samples:
    from temper.ir.types import TensorType

    x = np.random.default_rng(1).standard_normal((BATCHES, 400)).astype(np.float32)
    return samples_of([b[None] for b in x], {"x": TensorType("float32", (1, 400))})


def _losses(held: Samples, work: float, base: Collection[str] = ()) -> tuple[dict[str, float], Noisy]:
    simulator = Noisy({f"s{i}": 0.01 * 2**i for i in range(6)})
    reference = Reference([Head(0, "y", "values")], [[b["x"]] for b in held])
    prior = {n: size**2 for n, size in simulator.sizes.items()}
    return losses(simulator, held, reference, [1.0], prior, work, base=base), simulator


def test_losses_are_squares_of_errors(held: Samples) -> None:
    found, simulator = _losses(held, work=1e9)
    for n, size in simulator.sizes.items():
        assert found[n] == pytest.approx(size**2, rel=0.2)
    assert simulator.work < 0.5 * BATCHES * len(found), "losses had settled before all batches were seen"


def test_from_the_other_end_the_order_is_the_same(held: Samples) -> None:
    found, simulator = _losses(held, work=1e9, base=[f"s{i}" for i in range(6)])
    assert max(found, key=lambda n: found[n]) == "s5"
    assert found["s5"] > 2 * found["s3"]


@pytest.mark.parametrize("work", [2.0, 4.0, 13.0])
def test_work_is_kept_to(held: Samples, work: float) -> None:
    found, simulator = _losses(held, work)
    assert simulator.work <= work
    assert len(found) == 6 and max(found, key=lambda n: found[n]) == "s5", "the others follow from what is known"
