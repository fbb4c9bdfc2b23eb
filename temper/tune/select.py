"""From workloads to chosen kernels: collect legal candidates, predict, compile the best few, verify, time, remember."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

import numpy as np

from temper.compile.processes import PassingReason
from temper.config import knob
from temper.errors import BuildError, DeviceMemoryError
from temper.tactics.base import Kernel, Params, Tactic, Workload
from temper.tactics.workload import donated_operand
from temper.tune.candidates import RESCUE, Candidate, Known, Remembered, Trial, candidates_for, generated
from temper.tune.remembered import CandidateList, Generated, candidate_list_key, keep, recall
from temper.tune.timing_cache import Record, TimingCache, digest

#: Share of a program's time that it may lose to kernels that need no packed weights of their own in the plan.
SHARING = 0.02


def cold_bytes(constants: int, cache: int) -> int:
    """Bytes of constants to rotate over for a model with that many, on a machine with that last-level cache: the next
    power of two, since times are kept per value, and no more than twice the cache, beyond which nothing changes."""
    return 1 << max(20, min(constants, 2 * cache) - 1).bit_length() if constants > 1 << 20 else 1 << 20


Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Task:
    """A workload to tune with the data it needs: weights for prepacking and verification, and the sizes to tune at.

    also: candidates that take part whatever is predicted of them, such as another profile's choice.
    prefers: whether a candidate's packed weights are in the plan already, so that it may be chosen before faster ones.
    optional: there is no choice where every candidate fails its check, which is no error then.
    """

    workload: Workload
    constants: Mapping[int, np.ndarray]
    operand_constants: Mapping[int, np.ndarray]
    env: Mapping[str, int]
    name: str
    also: tuple[tuple[Tactic, Params], ...] = ()
    prefers: Callable[[Candidate], bool] | None = None
    optional: bool = False

    @property
    def sizes(self) -> str:
        """The sizes it is tuned at, as text."""
        return ",".join(f"{k}={v}" for k, v in sorted(self.env.items()) if k in self.workload.symbols)

    @property
    def key(self) -> str:
        """What a choice is kept under: the workload and the sizes it is tuned at."""
        return self.workload.key + (f"@{self.sizes}" if self.sizes else "")


@dataclass(frozen=True)
class Choice:
    """The kernel of a workload, its code, and the record of the competition."""

    candidate: Candidate
    code: bytes
    seconds: float | None
    trials: tuple[Trial, ...]


class Device(Protocol):
    """Where kernels are compiled for, verified and timed."""

    #: what comments begin with in the language of its sources, and how their files end
    comment: str
    suffix: str
    #: compilers at work do not disturb what is timed
    overlaps: bool
    #: how many tasks may be judged at once, by threads of the caller's
    judges: int

    @property
    def compiler(self) -> str:
        """Name and version of the compiler."""

    def compile(self, kernels: Mapping[str, Kernel], isa: str, jobs: int) -> Iterator[tuple[str, bytes | str]]:
        """Machine code by the keys given, as each is ready, in that order; or why there is none. BuildError where that
        is a bug. Where it `overlaps`, the work begins at once, behind what was asked for before."""

    def judge(
        self, task: Task, codes: Sequence[tuple[Candidate, bytes]], cold_bytes: int, timed: bool
    ) -> Iterator[tuple[Candidate, Record]]:
        """Every candidate's outcome: seconds (0 if not `timed`), or what is wrong with its results."""

    def close(self) -> None:
        """Ends what runs for it."""


@dataclass
class Tuner:
    """Chooses kernels for workloads on the machine at hand.

    machine: fingerprint that times are kept under.
    cold_bytes: how many bytes of constants pass through the caches between two uses of a layer's weights (see
        `cold_bytes`): part of the key of a time.
    jobs: compilers at once, 0 for one per core.
    """

    tactics: Sequence[Tactic]
    device: Device
    machine: str
    cache: TimingCache
    effort: int = 2
    jobs: int = 0
    cold_bytes: int = 1 << 24
    progress: Progress = lambda stage, done, total: None
    dump: Path | None = None
    #: by code key: the compiler's words for candidates it refused
    _refused: dict[str, str] = field(default_factory=dict)
    #: by code key: what the compiler will give, in order, for this candidate among others
    _awaited: dict[str, Iterator[tuple[str, bytes | str]]] = field(default_factory=dict)
    _sent: int = 0
    _known: Known = field(default_factory=Known)
    #: candidates of earlier builds are what this one's would be
    _recalls: bool = True

    def ahead(self, tasks: Sequence[Task]) -> None:
        """Sends candidates of tasks that will be chosen for later to the compiler, if that does not disturb."""
        if self.device.overlaps:
            contests = [self._contest(t) for t in {t.key: t for t in tasks}.values()]
            self._send([c for x in contests for c in x.missing(self.cache)])

    def choose(self, tasks: Sequence[Task]) -> dict[str, Choice]:
        """One choice per distinct `Task.key`. BuildError where no tactic can do a workload that is not optional."""
        distinct = {t.key: t for t in tasks}
        contests = {key: self._contest(t) for key, t in distinct.items()}
        open_, done = {}, {}
        for key, contest in contests.items():
            if contest.wanted(self.cache) or not contest.ranking(self.cache):
                open_[key] = contest
        self._send([c for x in open_.values() for c in x.wanted(self.cache)])
        if not self.device.overlaps:
            self._receive([c for x in open_.values() for c in x.candidates])
        self._run(list(open_.values()))
        for key, contest in open_.items():
            if not contest.ranking(self.cache) and not contest.task.optional:
                contests[key] = self._wider(contest)
        shared = self._shared(contests, Counter(t.key for t in tasks))
        for key, contest in contests.items():
            if contest.task.optional and not contest.ranking(self.cache):
                continue
            done[key] = contest.result(self.cache, shared.get(key))
        if not all(c.candidate.genuine for c in done.values()):  # by a tactic that is not as its source is
            self._recalls, self._known = False, Known()
            return self.choose(tasks)
        for key, choice in done.items():
            self._tell(contests[key], choice)
        return done

    def _wider(self, contest: Contest) -> Contest:
        """A contest none of whose candidates is right, with more of them."""
        more = self._contest(contest.task, max(self.effort, RESCUE))
        self._send(more.missing(self.cache))
        self._run([more])
        return more

    def _shared(self, contests: Mapping[str, Contest], counts: Mapping[str, int]) -> dict[str, Candidate]:
        """Candidates to take instead of the fastest because their packed weights are in the plan already: as many as
        save the most bytes for the time they lose, while all of them lose at most `SHARING` of the program's time."""
        total = 0.0
        swaps: list[tuple[float, float, str, Candidate]] = []
        for key, contest in contests.items():
            ranking = contest.ranking(self.cache)
            total += ranking[0][0] * counts[key] if ranking else 0.0
            prefers = contest.task.prefers
            if prefers is None or not ranking or prefers(ranking[0][1]):
                continue
            ready = ((s, c) for s, c in ranking if self.cache.code(c.code_key) is not None)
            found = next(((s, c) for s, c in ready if prefers(c)), None)
            if found is not None:
                loss = (found[0] - ranking[0][0]) * counts[key]
                weights = sum(a.nbytes for a in contest.task.constants.values()) * counts[key]
                swaps.append((loss / max(weights, 1), loss, key, found[1]))
        out: dict[str, Candidate] = {}
        lost = 0.0
        for _, loss, key, candidate in sorted(swaps, key=lambda x: x[:3]):
            if lost + loss <= SHARING * total:
                lost += loss
                out[key] = candidate
        return out

    def _tell(self, contest: Contest, choice: Choice) -> None:
        """TEMPER_DEBUG lines on standard error, and the sources of all candidates into the dump folder."""
        level, name = int(knob("TEMPER_DEBUG")), contest.task.name
        if level >= 1:
            best = "" if choice.seconds is None else f" in {choice.seconds * 1e6:.1f} us"
            print(f"[temper] {name}: {choice.candidate.label}{best}", file=sys.stderr)
        for t in choice.trials:
            if level >= 2 and t.seconds is not None and choice.seconds is not None:
                print(f"[temper]     {t.seconds * 1e6:9.1f} us  {t.label}", file=sys.stderr)
            if level >= 3 and t.note:
                print(f"[temper]     {t.label}: {t.note}", file=sys.stderr)
        if self.dump is not None:
            folder = self.dump / "kernels"
            folder.mkdir(parents=True, exist_ok=True)
            mark = self.device.comment
            for c in contest.candidates:
                role = "chosen" if c is choice.candidate else "not chosen"
                head = f"{mark} {name}: {c.label} ({role})\n{mark} {contest.task.workload.key}\n"
                (folder / f"{c.kernel.entries[0]}{self.device.suffix}").write_text(head + c.kernel.source)

    def _contest(self, task: Task, effort: int | None = None) -> Contest:
        candidates, declined = self._candidates(task, self.effort if effort is None else effort)
        if not candidates:
            reasons = "; ".join(f"{t.label}: {t.note}" for t in declined)
            raise BuildError(f"'{task.name}': no tactic can compute {task.workload.key}: {reasons}")
        return Contest(task, candidates, declined, f"{self.machine} cold {self.cold_bytes}", self.effort)

    def _candidates(self, task: Task, effort: int) -> tuple[list[Candidate], list[Trial]]:
        """As `candidates_for`, of what an earlier build found where one did."""
        w, compiler = task.workload, self.device.compiler
        about = (task.sizes, str(effort), repr([(t.name, p) for t, p in task.also]))
        key = candidate_list_key(w.key, *about, compiler, self.machine, ",".join(t.name for t in self.tactics))
        found = recall(self.cache, key) if self._recalls else None
        if found is None:
            made = candidates_for(self.tactics, w, effort, compiler, task.env, task.also, self._known)
            kept = [Generated(c.tactic.name, c.params, c.code_key, c.made.in_place, bool(c.made.grid)) for c in made[0]]
            keep(self.cache, key, CandidateList(tuple(kept), tuple((t.label, t.note) for t in made[1])))
            return made
        tactics, known = {t.name: t for t in self.tactics}, self._known.candidates
        for g in found.candidates:
            if (w.key, g.tactic, g.params) not in known:
                make = partial(generated, tactics[g.tactic], w, g.params)
                made_before = Remembered(g.code_key, g.in_place, int(g.grid), make)
                known[w.key, g.tactic, g.params] = Candidate(
                    tactics[g.tactic], g.params, made_before, w.isa, compiler
                )
        candidates = [known[w.key, g.tactic, g.params] for g in found.candidates]
        return candidates, [Trial(name, None, note) for name, note in found.declined]

    def _send(self, candidates: Sequence[Candidate]) -> None:
        """Asks the compiler for code that the cache lacks and nobody has asked for."""
        known = {*self._awaited, *self._refused}
        todo = {c.code_key: c for c in candidates if c.code_key not in known}
        todo = {key: c for key, c in todo.items() if self.cache.code(key) is None}
        if todo:
            isa = next(iter(todo.values())).isa
            made = self.device.compile({key: c.kernel for key, c in todo.items()}, isa, self.jobs)
            self._awaited |= dict.fromkeys(todo, made)
            self._sent += len(todo)
            self.progress("compile", self._sent - len(self._awaited), self._sent)

    def _receive(self, candidates: Sequence[Candidate]) -> None:
        """Waits until these are compiled, if they were sent."""
        for key in (c.code_key for c in candidates):
            while key in self._awaited:
                done, code = next(self._awaited[key])
                del self._awaited[done]
                if isinstance(code, str):
                    self._refused[done] = code
                else:
                    self.cache.put_code(done, code)
                self.progress("compile", self._sent - len(self._awaited), self._sent)

    def _run(self, contests: Sequence[Contest]) -> None:
        """Verifies and times what the cache does not know, in order, each contest once its kernels are compiled. What
        the device judges at once goes to threads, each of which has the next contest to go on with."""
        count, done = self.device.judges, 0
        running: deque[Callable[[], list[tuple[str, Record]]]] = deque()

        def settle() -> None:
            nonlocal done
            for key, record in running.popleft()():
                self.cache.put_time(key, record)
            done += 1
            self.progress("time", done, len(contests))

        if contests:
            self.progress("time", 0, len(contests))
        pool = ThreadPoolExecutor(count)
        try:
            for contest in contests:
                self._receive(contest.candidates)
                judged = partial(self._judged, contest, self._codes(contest))
                running.append(pool.submit(judged).result if count > 1 else judged)
                while len(running) > (count if count > 1 else 0):
                    settle()
            while running:
                settle()
        finally:
            pool.shutdown(cancel_futures=True)

    def _codes(self, contest: Contest) -> list[tuple[Candidate, bytes]]:
        """The candidates of which the cache has no time yet, with their code; what did not compile is noted there."""
        codes = []
        for c in contest.candidates:
            if self.cache.time(contest.time_key(c)) is None:  # else another process has measured it in the meantime
                code = self.cache.code(c.code_key)
                if code is None:
                    words = self._refused[c.code_key]
                    passing = isinstance(words, PassingReason)
                    self.cache.put_time(contest.time_key(c), Record(None, f"does not compile: {words}", passing))
                else:
                    codes.append((c, code))
        return codes

    def _judged(self, contest: Contest, codes: Sequence[tuple[Candidate, bytes]]) -> list[tuple[str, Record]]:
        """Outcomes by the keys of their times."""
        if not codes:
            return []
        outcomes = self.device.judge(contest.task, codes, self.cold_bytes, self.effort > 0)
        return [(contest.time_key(c), record) for c, record in outcomes]


@dataclass(frozen=True)
class Contest:
    """A task and the candidates that compete for it."""

    task: Task
    candidates: Sequence[Candidate]
    declined: Sequence[Trial]
    machine: str
    effort: int

    @cached_property
    def _keys(self) -> dict[tuple[str, Params], str]:
        return {}

    def time_key(self, c: Candidate) -> str:
        key = c.tactic.name, c.params
        if key not in self._keys:
            self._keys[key] = self._time_key(c)
        return self._keys[key]

    def _time_key(self, c: Candidate) -> str:
        timed = "timed" if donated_operand(self.task.workload, c.made) is None else "timed in place"
        return digest(
            c.code_key,
            self.task.workload.key,
            c.label,
            self.machine,
            self.task.sizes,
            "untimed" if self.effort == 0 else timed,
        )

    def missing(self, cache: TimingCache) -> list[Candidate]:
        return [c for c in self.candidates if cache.time(self.time_key(c)) is None]

    def ranking(self, cache: TimingCache) -> list[tuple[float, Candidate]]:
        """Seconds and candidate of all that are right, fastest first."""
        records = [(c, cache.time(self.time_key(c))) for c in self.candidates]
        ok = [(r.seconds, c) for c, r in records if r is not None and r.seconds is not None]
        return sorted(ok, key=lambda x: (x[0], x[1].label))

    def wanted(self, cache: TimingCache) -> list[Candidate]:
        """Candidates to be compiled if the cache lacks their code: those not known, and the fastest of the others."""
        fastest = [c for _, c in self.ranking(cache)[:1] if cache.code(c.code_key) is None]
        return [*self.missing(cache), *fastest]

    def result(self, cache: TimingCache, shared: Candidate | None = None) -> Choice:
        """The choice: the fastest, or `shared`. BuildError if no candidate is right, DeviceMemoryError if a GPU has no
        room for any."""
        ranking = [(s, c) for s, c in self.ranking(cache) if shared is None or c is shared]
        records = [cache.time(self.time_key(c)) for c in self.candidates]
        trials = [
            Trial(c.label, r.seconds if r else None, r.failure if r else "")
            for c, r in zip(self.candidates, records, strict=True)
        ]
        if not ranking and all(r is not None and r.passing and " fit: " in r.failure for r in records):
            raise DeviceMemoryError(
                f"'{self.task.name}' cannot be tuned: {trials[-1].note}. Build for smaller sizes, or where more memory "
                "is free; the same build with --no-timing, for the GPU's code level, needs none"
            )
        if not ranking:
            tried = "; ".join(f"{t.label}: {t.note}" for t in trials)
            raise BuildError(f"'{self.task.name}': every candidate kernel failed its check: {tried}")
        seconds, winner = ranking[0]
        code = cache.code(winner.code_key)
        assert code is not None
        return Choice(winner, code, seconds if self.effort else None, (*trials, *self.declined))
