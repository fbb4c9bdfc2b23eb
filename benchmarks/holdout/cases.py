"""The cases: a task, a network and a seed each, and for networks that have places for it the same made hard to
quantize. The seed varies the size of the network too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Networks by task: kind, width, depth, steps of training.
NETWORKS: Mapping[str, tuple[tuple[str, int, int, int], ...]] = {
    "digits": (("plain", 16, 2, 1500), ("residual", 12, 2, 1500), ("mobile3", 16, 1, 1500), ("mlp", 96, 3, 1500)),
    "series": (("lstm", 48, 2, 1500), ("gru", 48, 2, 1500), ("temporal", 48, 4, 1500), ("mlp", 96, 3, 1500)),
    "sorted": (("gpt", 48, 3, 2000),),
    "letters": (
        ("vgg", 16, 2, 1500), ("residual", 12, 2, 1200), ("mobile", 16, 2, 1200), ("mobile3", 16, 2, 1200),
        ("efficient", 16, 2, 1200), ("depthwise", 16, 2, 1200), ("shuffle", 24, 2, 1200), ("dense", 16, 2, 1200),
        ("next", 24, 2, 1200), ("vit", 48, 3, 2000), ("mixer", 48, 3, 1500),
    ),
    "pose": (("residual", 8, 1, 1500), ("efficient", 8, 1, 1500)),
    "speech": (("dscnn", 32, 3, 1000), ("columns", 48, 2, 1500), ("mobile3", 8, 1, 1000)),
    "bytes": (("encoder", 48, 2, 1200), ("temporal", 48, 3, 1200)),
    "next": (("gru", 96, 2, 1500), ("gpt", 48, 2, 1500)),
    "segments": (("unet", 8, 2, 1000), ("separable", 12, 2, 1000), ("transposed", 8, 2, 1000)),
    "noisy": (("denoiser", 16, 2, 1000), ("unet", 8, 2, 1000)),
    "lines": (("crnn", 16, 2, 1500), ("columns", 12, 2, 1000)),
    "sums": (("gpt", 48, 2, 6000),),
    "glyphs": (
        ("plain", 16, 2, 1400), ("leaky", 16, 2, 1400), ("residual", 12, 2, 1400), ("shuffle", 24, 2, 1400),
        ("dense", 20, 3, 1400),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """hard: channels are scaled to unlike sizes."""

    task: str
    kind: str
    width: int
    depth: int
    steps: int
    seed: int
    hard: bool = False

    @property
    def trained(self) -> str:
        """The name of its weights."""
        return f"{self.task}-{self.kind}-{self.seed}"

    @property
    def name(self) -> str:
        return self.trained + "-hard" * self.hard


#: Networks without places where channels may be scaled.
_EASY = frozenset({"leaky", "mobile", "mobile3", "efficient", "shuffle", "dense", "lstm", "gru", "denoiser", "unet"})
_EASY |= {"separable", "transposed"}


def cases(seeds: range, hard: bool = False) -> list[Case]:
    """All networks for all seeds; every other seed has wider ones. hard: beside each, where it can be."""
    found = []
    for seed in seeds:
        for task, rows in NETWORKS.items():
            for kind, width, depth, steps in rows:
                wide = width + width // 4 // 4 * 4 if seed % 2 else width
                found.append(Case(task, kind, wide, depth, steps, seed))
                if hard and kind not in _EASY:
                    found.append(Case(task, kind, wide, depth, steps, seed, True))
    return found
