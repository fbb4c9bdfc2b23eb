"""What ran on a GPU of the op library's kernels: a file that several runs add to, by case and text of the kernel."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Record:
    """runs: when, where and of which source. cases: by tactic and case, the digests of kernels that were right, each
    with the number of the last run that found so."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    cases: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    @staticmethod
    def read(path: Path | None) -> Record:
        """Empty where there is no file."""
        if path is None or not path.exists():
            return Record()
        found = json.loads(path.read_text())
        return Record(found["runs"], found["cases"])

    def has(self, tactic: str, case: str, digest: str) -> bool:
        return digest in self.cases.get(tactic, {}).get(case, {})

    def keep(self, current: Iterable[tuple[str, str, str]]) -> None:
        """Forgets kernels other than these: those whose text has changed since."""
        before, self.cases = self.cases, {}
        for tactic, case, digest in current:
            self.cases.setdefault(tactic, {}).setdefault(case, {})[digest] = before[tactic][case][digest]

    def add(self, run: dict[str, Any], right: Iterable[tuple[str, str, str]]) -> None:
        """A run, and its kernels that were right: tactic, case, digest."""
        self.runs.append(run)
        for tactic, case, digest in right:
            self.cases.setdefault(tactic, {}).setdefault(case, {})[digest] = len(self.runs) - 1

    def write(self, path: Path, left: Sequence[str], wrong: Sequence[str]) -> None:
        """With the sums first, and a line for each case. left, wrong: what the last run did not reach, or found."""
        count = {t: sum(map(len, self.cases[t].values())) for t in sorted(self.cases)}
        head = {"kernels": sum(count.values()), "by_tactic": count, "left": left, "wrong": wrong, "runs": self.runs}
        tactics = []
        for t in count:
            lines = [f"   {json.dumps(c)}: {json.dumps(d)}" for c, d in sorted(self.cases[t].items())]
            tactics.append(f"  {json.dumps(t)}: {{\n" + ",\n".join(lines) + "\n  }")
        text = json.dumps(head, indent=1).removesuffix("\n}")
        path.write_text(text + ',\n "cases": {\n' + ",\n".join(tactics) + "\n }\n}\n")
