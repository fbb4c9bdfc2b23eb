"""The pass list of a build, in order."""
from __future__ import annotations

from collections.abc import Callable, Sequence

from temper.ir.graph import Graph
from temper.passes.attention import ATTENTION
from temper.passes.bounded import BOUNDED
from temper.passes.cleanup import CLEANUP, CLEANUP_BUT_CODES
from temper.passes.codes import CODES_EARLY
from temper.passes.decompose import DECOMPOSE
from temper.passes.einsum import EINSUM
from temper.passes.encoding import ENCODING
from temper.passes.fake_quantize import FAKE_QUANTIZE
from temper.passes.float8 import FLOAT8
from temper.passes.fold import FOLD
from temper.passes.grid_weights import GRID_WEIGHTS
from temper.passes.halves import HALVES
from temper.passes.idioms import IDIOMS
from temper.passes.integer import INTEGER
from temper.passes.integer_operators import INTEGER_OPERATORS
from temper.passes.layout import CLASSIFIER_ROWS, LAYOUT
from temper.passes.lower import LOWER, LOWER_FOR_GPUS
from temper.passes.manager import Log, Pass
from temper.passes.merge_products import MERGE_PRODUCTS
from temper.passes.names import NAMES
from temper.passes.normalization import NORMALIZATION
from temper.passes.recurrent import RECURRENT
from temper.passes.recurrent_cells import RECURRENT_CELLS
from temper.passes.recurrent_loops import RECURRENT_LOOPS
from temper.passes.rows import ROWS
from temper.passes.select_early import SELECT_EARLY
from temper.passes.signed import SIGNED
from temper.passes.split_codes import SPLIT_CODES
from temper.passes.squeeze_excite import GATES_APPLIED, SQUEEZE_EXCITE
from temper.passes.strength import STRENGTH
from temper.passes.transpose_inputs import TRANSPOSE_INPUTS
from temper.passes.views import SINK_VIEWS
from temper.passes.volumes import PLANES
from temper.passes.widen import WIDEN
from temper.passes.zero_points import ZERO_POINTS

PIPELINE: tuple[Pass, ...] = (
    FAKE_QUANTIZE,    # before constants are folded: weights get codes
    GRID_WEIGHTS,     # before what gives weights other layouts and joins scales
    CLEANUP_BUT_CODES,
    WIDEN,            # before all that knows float32 only
    RECURRENT_LOOPS,
    RECURRENT_CELLS,  # before fold, which would make first steps unlike the others
    EINSUM,           # before the idioms of attention
    IDIOMS,           # before fold: a scale folded into a convolution would hide a hard-swish
    ROWS,             # before what recognises layers by their shapes
    NORMALIZATION,
    ATTENTION,        # before fold and layout: heads are split and merged as exporters write it
    Pass("rows-2", ROWS.run),  # of what attention returns
    RECURRENT,
    FOLD,
    PLANES,           # before layout, which would make channels of what are planes; cleanup-2 then merges the renamings
    Pass("cleanup-2", CLEANUP_BUT_CODES.run),
    SELECT_EARLY,     # after fold, which leaves less between layers; before queries are part of a wider product
    MERGE_PRODUCTS,   # after cleanup: renamings between projections and attention are gone
    SQUEEZE_EXCITE,   # after fold, which joins biases; before layout, which puts views between
    LAYOUT,
    CLASSIFIER_ROWS,  # needs the transposes that layout left before classifiers
    CODES_EARLY,      # after layout, as integer
    INTEGER,          # after layout: its products are channels-last; before the rest of quantization is taken apart
    INTEGER_OPERATORS,  # after layout, as integer
    HALVES,           # after layout: it takes channels-last convolutions only
    DECOMPOSE,
    BOUNDED,
    LOWER,            # after layout: channel blocks are contiguous then, and layout knows ops better than parts
    SINK_VIEWS,       # after lower, which renames
    ENCODING,         # after sink-views, which knows moves of codes by their types
    STRENGTH,         # last: the rules before it know Pow and Div as exporters write them
    Pass("cleanup-3", CLEANUP.run),
)

_INTEGER_AT = PIPELINE.index(CODES_EARLY)

#: What leads to the float graph whose sites may become integer.
FLOAT: tuple[Pass, ...] = (*PIPELINE[:_INTEGER_AT], NAMES)


def quantizing(apply: Callable[[Graph, Log], None]) -> tuple[Pass, ...]:
    """The pass list with a pass "quantize", which writes a graph's Q/DQ form, where it belongs."""
    return (*FLOAT, Pass("quantize", apply), *PIPELINE[_INTEGER_AT:])


def for_gpus(passes: Sequence[Pass], float8: bool = True) -> tuple[Pass, ...]:
    """The pass list for GPUs: their tensor cores multiply signed codes, and halves as they are stored; some ops that
    CPUs compute in parts have kernels; a Transpose's kernel has a program behind it, none before. float8: they
    multiply 8-bit floats too."""
    left = [LOWER_FOR_GPUS if p is LOWER else p for p in passes if p.name not in (HALVES.name, ENCODING.name)]
    if INTEGER_OPERATORS in left:
        left.insert(left.index(INTEGER_OPERATORS) + 1, ZERO_POINTS)
    at = next((i for i, p in enumerate(left) if p.name == CODES_EARLY.name), len(left))
    early = (FLOAT8, SIGNED) if float8 else (SIGNED,)
    return (*left[:at], *early, *left[at:], TRANSPOSE_INPUTS, SPLIT_CODES, GATES_APPLIED)
