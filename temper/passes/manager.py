"""Runs passes in order; after each one the verifier checks the graph and, on request, a numbered dump is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from temper.errors import ConfigError
from temper.ir.graph import Graph
from temper.ir.text import to_text
from temper.ir.verify import verify


@dataclass
class Log:
    """What passes did and did not do: (pass or rule, node name, what happened or the reason it did not).

    disabled: names of rules that must not be applied.
    """

    applied: list[tuple[str, str]] = field(default_factory=list)
    declined: list[tuple[str, str, str]] = field(default_factory=list)
    disabled: frozenset[str] = frozenset()

    def did(self, rule: str, node: str) -> None:
        self.applied.append((rule, node))

    def did_not(self, rule: str, node: str, reason: str) -> None:
        if (rule, node, reason) not in self.declined:
            self.declined.append((rule, node, reason))

    def add(self, other: Log) -> None:
        """Takes over what another log holds."""
        self.applied += other.applied
        for rule, node, reason in other.declined:
            self.did_not(rule, node, reason)


@dataclass(frozen=True)
class Pass:
    """A named graph edit; `run` changes the graph in place and writes what it did and declined into the log."""

    name: str
    run: Callable[[Graph, Log], None]


def run_passes(
    graph: Graph,
    passes: Sequence[Pass],
    *,
    dump: Path | None = None,
    stop_after: str = "",
    disable: Collection[str] = (),
    always: bool = True,
    inside: bool = False,
) -> Log:
    """Applies `passes` in order, verifying after each, or (not `always`) after those that edited the graph.

    disable: passes and rules to leave out.
    inside: the graph is in a node of another, as `verify` has it.

    ConfigError if `stop_after` names no pass.
    """
    if stop_after and stop_after not in [p.name for p in passes]:
        raise ConfigError(f"no pass is called {stop_after!r}; the passes are: {', '.join(p.name for p in passes)}")
    log = Log(disabled=frozenset(disable))

    def write(number: int, name: str) -> None:
        if dump is not None:
            dump.mkdir(parents=True, exist_ok=True)
            (dump / f"{number:02}-{name}.txt").write_text(to_text(graph))

    write(0, "import")
    verified = -1
    for number, p in enumerate(passes, 1):
        if p.name in log.disabled:
            log.did_not(p.name, graph.name, "disabled")
        else:
            p.run(graph, log)
        if always or graph.edits != verified:
            verify(graph, inside)
            verified = graph.edits
        write(number, p.name)
        if p.name == stop_after:
            break
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, Graph):
                log.add(run_passes(value, passes, stop_after=stop_after, disable=disable, always=always, inside=True))
    return log
