"""Geometry of convolutions, transposed convolutions and matrix products, for kernels of every device.

A matrix product with a constant right operand is a 1x1 convolution over an image of one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from temper.ir.dims import Dim, DimLike, product
from temper.tactics.base import Workload
from temper.tactics.geometry import integers, static

#: Pixel count and width that stand for unknown ones when candidates are ranked.
TYPICAL_PIXELS, TYPICAL_WIDTH = 784, 28


@dataclass(frozen=True)
class ConvShape:
    """Geometry of a convolution per group, with pixel strides (elements) of input and output.

    img_rows: output rows per index of axis 0, for the epilogue's `img`. Only n, ih, iw, oh, ow and img_rows may be
    symbolic. packed: elements of a pixel where a kernel row is one tap of `icg` words, whose pixels follow each other.
    """

    n: DimLike
    ih: DimLike
    iw: DimLike
    oh: DimLike
    ow: DimLike
    icg: int
    ocg: int
    groups: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    xld: int
    old: int
    img_rows: DimLike
    packed: int = 0

    @property
    def k(self) -> int:
        """Products per output element."""
        return self.kernel[0] * self.kernel[1] * self.icg

    @property
    def pixels(self) -> DimLike:
        return product((self.n, self.oh, self.ow))

    @property
    def flat(self) -> bool:
        """Output pixel i reads exactly input pixel i."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.pads)

    @property
    def padded(self) -> bool:
        """A tap can fall outside the input."""
        return any(p > 0 for p in self.pads)


@lru_cache(maxsize=4096)
def conv_shape(w: Workload) -> ConvShape | str:
    """Geometry of a channels-last 2-D Conv workload, or the reason it has none here."""
    x, k = w.inputs[0], w.inputs[1]
    if x is None or k is None:
        return "a convolution needs input and weights"
    if x.type.rank != 4 or k.type.rank != 4:
        return f"computes 2-D convolutions (rank 4), not rank {x.type.rank}"
    if not w.attr("channels_last", 0):
        return "computes channels-last tensors only"
    channels, oc = static(x.type.shape[3]), static(k.type.shape[3])
    kh, kw, icg = (static(d) for d in k.type.shape[:3])
    groups = w.attr("group", 1)
    if channels is None or oc is None or kh is None or kw is None or icg is None or not isinstance(groups, int):
        return "channel counts and kernel size must be known at build time"
    if channels != icg * groups or oc % groups:
        return f"{channels} input and {oc} output channels do not fit {groups} groups of {icg}"
    n, ih, iw, _ = x.type.shape
    out = w.outputs[0]
    _, oh, ow, _ = out.type.shape
    return ConvShape(
        n,
        ih,
        iw,
        oh,
        ow,
        icg,
        oc // groups,
        groups,
        (kh, kw),
        _pair(w, "strides"),
        _pair(w, "dilations"),
        _pads(w),
        x.row_stride or channels,
        out.row_stride or oc,
        product((oh, ow)),
    )


def _pair(w: Workload, name: str) -> tuple[int, int]:
    value = w.attr(name, (1, 1))
    if not isinstance(value, tuple) or len(value) != 2:
        raise ValueError(f"Conv attribute {name} must have 2 entries, not {value!r}")
    return int(value[0]), int(value[1])


def _pads(w: Workload) -> tuple[int, int, int, int]:
    value = w.attr("pads", (0, 0, 0, 0))
    if not isinstance(value, tuple) or len(value) != 4:
        raise ValueError(f"Conv attribute pads must have 4 entries, not {value!r}")
    t, left, b, r = (int(p) for p in value)
    return t, left, b, r


def row_image(w: Workload) -> ConvShape:
    """All rows of the product as the pixels of one image of height 1."""
    a, out = w.inputs[0], w.outputs[0]
    assert a is not None
    k, n = static(a.type.shape[-1]), static(out.type.shape[-1])
    assert k is not None and n is not None
    rows = product(a.type.shape[:-1])
    return ConvShape(
        1,
        1,
        rows,
        1,
        rows,
        k,
        n,
        1,
        (1, 1),
        (1, 1),
        (1, 1),
        (0, 0, 0, 0),
        a.row_stride or k,
        out.row_stride or n,
        product(out.type.shape[1:-1]),
    )


@dataclass(frozen=True)
class TransposedShape:
    """Static geometry of a channels-last 2-D or 3-D ConvTranspose, per group; an image is a volume of depth 1."""

    icg: int
    ocg: int
    groups: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]  # before the data, per axis


def transposed_shape(w: Workload) -> TransposedShape | str:
    """Geometry of a workload, or the reason it has none here."""
    x, k = w.inputs[0], w.inputs[1]
    assert x is not None and k is not None
    if x.type.rank not in (4, 5):
        return f"computes 2-D and 3-D transposed convolutions, not rank {x.type.rank}"
    if not w.attr("channels_last", 0):
        return "computes channels-last tensors only"
    if any(isinstance(d, Dim) for d in (*k.type.shape, x.type.shape[-1])):
        return "channel counts and kernel size must be known at build"
    if k.row_stride is not None:
        return "its weights are a view"
    *kernel, channels, ocg = (int(str(d)) for d in k.type.shape)
    groups, flat = int(str(w.attr("group"))), x.type.rank == 4
    pads, lead = integers(w, "pads"), (1,) if flat else ()
    return TransposedShape(
        channels // groups,
        ocg,
        groups,
        (*lead, *kernel),
        (*lead, *integers(w, "strides")),
        (*lead, *integers(w, "dilations")),
        (0, *pads[:2]) if flat else pads[:3],
    )
