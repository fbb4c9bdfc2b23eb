"""`temper debug`: shrinks a failing model, or names what changes an output; leaves a folder that shows it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from temper.cli.build import ISA

if TYPE_CHECKING:
    from temper.debug.check import Check
    from temper.debug.extract import Case

debug = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find out what is wrong: shrink a failing model, or name the pass, rule, region or tactic at fault.",
)

_Model = Annotated[Path, typer.Argument(help="ONNX file.", show_default=False)]
_Data = Annotated[
    Path | None, typer.Option(help="Inputs: an .npz by name, or an .npy; random if not given.", show_default=False)
]
_Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", help="One input, NAME=FILE.npy; may be repeated.", show_default=False),
]
_Shape = Annotated[
    list[str] | None,
    typer.Option(help="Shape of a random input, NAME=1x3x224x224; open dimensions are 1.", show_default=False),
]
_Seed = Annotated[int, typer.Option(help="Seed of random inputs.")]
_Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)]
_Tolerance = Annotated[
    float | None,
    typer.Option(
        help="Largest error, relative to the largest value of an output; by default derived from how much the model "
        "magnifies rounding on this data.",
        min=0,
        show_default=False,
    ),
]
_Against = Annotated[str, typer.Option(help="What to compare with: reference or onnxruntime.")]
_Isa = Annotated[str, typer.Option(help=ISA, show_default=False)]
_Device = Annotated[str, typer.Option(help="Where engines are built for and run: cpu, cuda or cuda:N.")]
_Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


@debug.command()
def reduce(
    model: _Model,
    output: _Output,
    check: Annotated[
        str,
        typer.Option(
            help="Command whose failure is looked for; {} is the model's path (appended if absent), {inputs} an .npz "
            "of its inputs.",
            show_default=False,
        ),
    ] = "",
    differs: Annotated[
        str,
        typer.Option(
            help="Instead of --check: the engine differs from the reference, or from onnxruntime.", show_default=False
        ),
    ] = "",
    refused: Annotated[
        str,
        typer.Option(
            "--build-fails",
            help="Instead of --check: the build ends in an error whose text matches this expression.",
            show_default=False,
        ),
    ] = "",
    fail_code: Annotated[
        list[int] | None,
        typer.Option(
            help="Exit status that is the failure (a signal is negative); by default the whole model's; repeatable.",
            show_default=False,
        ),
    ] = None,
    match: Annotated[
        str, typer.Option(help="Expression that the failing command's output must match.", show_default=False)
    ] = "",
    timeout: Annotated[float, typer.Option(help="Seconds a check may take.", min=0.1)] = 120.0,
    fail_on_timeout: Annotated[
        bool, typer.Option("--fail-on-timeout", help="Running out of time is the failure.")
    ] = False,
    most: Annotated[int, typer.Option("--max-checks", help="Stop after this many checks.", min=1)] = 500,
    tolerance: _Tolerance = None,
    data: _Data = None,
    inputs: _Inputs = None,
    shape: _Shape = None,
    seed: _Seed = 0,
    isa: _Isa = "",
    device: _Device = "cpu",
    as_json: _Json = False,
) -> None:
    """Shrink a failing model to the smallest one found that still fails in the same way.

    Nodes are removed, what they computed becomes inputs with the recorded values, and sizes are made smaller, as long
    as the check still fails. Exit code 0 if a failing model was written.
    """
    from temper.cli.show import console, print_json
    from temper.debug.check import Same, parse_codes
    from temper.debug.reduce import reduce_model
    from temper.debug.repro import write_repro

    chosen, wanted = _check(check, differs, refused, timeout, tolerance, isa, device)
    same = Same(parse_codes(fail_code or ()), match or wanted, fail_on_timeout)
    case = _case(model, data, inputs, shape, seed)
    with _progress(as_json) as progress:
        found = reduce_model(case, chosen, same, most=most, progress=progress)
    said = [f"it fails with {found.outcome}" + (f": {found.outcome.last_line}" if found.outcome.last_line else "")]
    write_repro(
        output,
        found.case,
        title=f"{model.name}, reduced from {found.nodes[0]} nodes to {found.nodes[1]} by `temper debug reduce`",
        found=said,
        command=chosen.command(),
        settings={"source": str(model), "nodes": found.nodes, "checks": found.checks, "complete": found.complete},
    )
    ops = [n.op_type for n in found.case.model.graph.node if n.op_type != "Constant"]
    if as_json:
        print_json(
            {
                "nodes": found.nodes,
                "ops": ops,
                "checks": found.checks,
                "complete": found.complete,
                "outcome": str(found.outcome),
                "steps": found.steps,
                "folder": str(output),
            }
        )
        return
    before, after = found.nodes
    console().print(
        f"{before} nodes became {after} ({', '.join(ops)}) in {found.checks} checks; {said[0]}\n"
        f"see {output}/README.txt",
        markup=False,
    )


@debug.command()
def bisect(
    model: _Model,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write if something is found.", show_default=False)
    ] = None,
    tolerance: _Tolerance = None,
    peer: Annotated[bool, typer.Option("--onnxruntime/--no-onnxruntime", help="Compare operators with it.")] = True,
    disable: Annotated[
        list[str] | None,
        typer.Option(help="Do without this pass, rule or tactic; may be repeated.", show_default=False),
    ] = None,
    effort: Annotated[int, typer.Option(help="Effort of the build that is examined.", min=0, max=5)] = 0,
    threads: Annotated[int, typer.Option(help="Threads of the engine.", min=1)] = 1,
    data: _Data = None,
    inputs: _Inputs = None,
    shape: _Shape = None,
    seed: _Seed = 0,
    isa: _Isa = "",
    as_json: _Json = False,
) -> None:
    """Name the operator, pass, rule, region or tactic that changes an output. Exit code 1 if there is one."""
    from temper.cli.show import console, print_json, table
    from temper.config import BuildConfig
    from temper.debug.bisect import as_dict
    from temper.debug.bisect import bisect as search

    case = _case(model, data, inputs, shape, seed)
    config = BuildConfig(threads=threads, effort=effort, isa=isa, disable=tuple(disable or ()))
    with _progress(as_json) as progress:
        found = search(case, config=config, tolerance=tolerance, peer=peer, progress=progress)
    finding = found.finding
    if as_json:
        print_json(as_dict(found))
    elif finding is None:
        console().print("no output deviates", markup=False)
    else:
        screen = console()
        screen.print(finding.text, markup=False)
        if finding.candidates:
            screen.print(table(("kernel", "on the real inputs"), finding.candidates, wide=("on the real inputs",)))
        if finding.disable:
            screen.print(f"a build does without it by: temper build {model} {finding.disable} -o PLAN", markup=False)
    if finding is None:
        return
    if output is not None:
        _write_finding(output, model, case, found, config, tolerance, peer)
        if not as_json:
            console().print(f"see {output}/README.txt", markup=False)
    raise typer.Exit(1)


@debug.command()
def check(
    model: _Model,
    against: _Against = "reference",
    tolerance: _Tolerance = None,
    data: _Data = None,
    inputs: _Inputs = None,
    shape: _Shape = None,
    seed: _Seed = 0,
    isa: _Isa = "",
    device: _Device = "cpu",
) -> None:
    """Build a model and compare its outputs: a check command for `temper debug reduce`. Exit code 1 if one deviates."""
    from temper.debug.judge import judge

    case = _case(model, data, inputs, shape, seed)
    rows = judge(case.model, case.feeds, against=against, tolerance=tolerance, isa=isa, device=device)
    for row in rows:
        print(row)
    if any(r.deviates for r in rows):
        raise typer.Exit(1)


def _check(
    command: str, differs: str, refused: str, timeout: float, tolerance: float | None, isa: str, device: str
) -> tuple[Check, str]:
    """The check and the expression its output has to match by default."""
    from temper.debug.check import Command, refuses
    from temper.debug.check import differs as differs_from
    from temper.debug.judge import AGAINST
    from temper.errors import ConfigError

    if sum(map(bool, (command, differs, refused))) != 1:
        raise ConfigError("give one of --check COMMAND, --differs reference|onnxruntime, --build-fails EXPRESSION")
    if command:
        return Command(command, timeout), ""
    if differs and differs not in AGAINST:
        raise ConfigError(f"--differs {differs}: choose from {', '.join(AGAINST)}")
    if differs:
        return differs_from(differs, tolerance, timeout, isa, device), "deviates"
    return refuses(timeout, isa, device), refused


def _case(model: Path, data: Path | None, inputs: Sequence[str] | None, shape: Sequence[str] | None, seed: int) -> Case:
    """The model and its inputs: given ones, or seeded random ones."""
    from temper.cli.files import is_plan, read_feeds
    from temper.cli.sizes import parse_static_shapes
    from temper.debug.extract import Case
    from temper.debug.inputs import guessed, input_names, read_model, sampled
    from temper.errors import ConfigError

    if is_plan(model):
        raise ConfigError(f"{model} is a plan; give the ONNX file it was built from")
    proto = read_model(model)
    given = read_feeds(input_names(proto), inputs or (), data)
    shapes = parse_static_shapes(shape or ())
    if open_ := guessed(proto, shapes, given):
        print(f"note: the sizes {', '.join(open_)} are taken as 1; give others with --shape or --data", file=sys.stderr)
    return Case(proto, {**sampled(proto, shapes, seed, given), **given})


def _write_finding(
    folder: Path, model: Path, case: Case, found: Any, config: Any, tolerance: float | None, peer: bool
) -> None:
    from temper.debug.bisect import bisect as search
    from temper.debug.bisect import part_of
    from temper.debug.repro import temper_command, write_repro
    from temper.errors import TemperError

    finding = found.finding

    def still(part: Case) -> bool:
        try:
            other = search(part, config=config, tolerance=tolerance, peer=peer).finding
        except TemperError:
            return False
        return other is not None and (other.kind, other.name) == (finding.kind, finding.name)

    options = [] if tolerance is None else ["--tolerance", repr(tolerance)]
    options += [] if peer else ["--no-onnxruntime"]
    options += [x for name in config.disable for x in ("--disable", name)]
    options += ["--effort", str(config.effort), "--threads", str(config.threads)]
    options += ["--isa", config.isa] if config.isa else []
    lines = [finding.text, *(f"  {label}: {text}" for label, text in finding.candidates)]
    lines += [f"A build does without it by: temper build model.onnx {finding.disable} -o model.plan"] * bool(
        finding.disable
    )
    write_repro(
        folder,
        part_of(case, finding, still),
        title=f"{model.name}: found by `temper debug bisect`",
        found=lines,
        command=temper_command("debug", "bisect", "model.onnx", "--data", "inputs.npz", *options),
        settings={"source": str(model), "stages": list(found.stages), "finding": finding.text},
        texts=finding.texts,
    )


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Lines on standard error, as the search goes on."""
    yield (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))
