"""The tactics of CPUs. A new one is a class of its own and one line here."""

from __future__ import annotations

from temper.tactics.base import Tactic
from temper.tactics.cpu.attention import Attention
from temper.tactics.cpu.attention_int8 import AttentionInt8
from temper.tactics.cpu.axis_maps import AxisMaps
from temper.tactics.cpu.bfloat16 import ConvBfloat16, GemmBfloat16
from temper.tactics.cpu.boxes_kept import BoxesKept
from temper.tactics.cpu.col2im import ColumnsToImage
from temper.tactics.cpu.conv import ConvFallback, ConvGemm
from temper.tactics.cpu.conv_transpose import ConvTransposeFallback
from temper.tactics.cpu.deform_conv import DeformConv
from temper.tactics.cpu.depthwise import Depthwise
from temper.tactics.cpu.depthwise_int8 import DepthwiseInt8
from temper.tactics.cpu.det import Determinant
from temper.tactics.cpu.dft import FourierTransform
from temper.tactics.cpu.einsum import Einsum
from temper.tactics.cpu.filled import Filled
from temper.tactics.cpu.gather import GatherRows
from temper.tactics.cpu.gemm import Gemm, GemmPacked
from temper.tactics.cpu.gemm_int8 import GemmInt8Batched
from temper.tactics.cpu.grid_sample import GridSample
from temper.tactics.cpu.histogram import Histogram
from temper.tactics.cpu.index_copy import IndexCopy
from temper.tactics.cpu.indexed import Indexed
from temper.tactics.cpu.int8 import ConvInt8, GemmInt8
from temper.tactics.cpu.layernorm import LayerNorm
from temper.tactics.cpu.lookup import Lookup
from temper.tactics.cpu.movement import CopyAffine, CopyBlocks
from temper.tactics.cpu.pointwise import Pointwise
from temper.tactics.cpu.pool import Pool, PoolBytes
from temper.tactics.cpu.pool_indices import PoolIndices
from temper.tactics.cpu.positions import Positions
from temper.tactics.cpu.recurrent import Recurrent
from temper.tactics.cpu.reduce import ArgExtreme, Reduce
from temper.tactics.cpu.reduce_typed import ReduceTyped
from temper.tactics.cpu.regions import MaxRoiPool, RoiAlign
from temper.tactics.cpu.resize import ResizeTaps
from temper.tactics.cpu.resize_maps import ResizeMaps
from temper.tactics.cpu.running import Running
from temper.tactics.cpu.softmax import Softmax
from temper.tactics.cpu.squeeze_excite import SqueezeExcite
from temper.tactics.cpu.strassen import GemmStrassen
from temper.tactics.cpu.top_k import TopK
from temper.tactics.cpu.trees import Trees
from temper.tactics.cpu.winograd import WinogradConv
from temper.tactics.cpu.winograd_int8 import WinogradInt8


def cpu_tactics() -> tuple[Tactic, ...]:
    """Everything that can compute a workload on a CPU; fallbacks last."""
    return (
        ConvGemm(),
        WinogradConv(),
        Depthwise(),
        DepthwiseInt8(),
        GemmPacked(),
        GemmStrassen(),
        Pointwise(),
        CopyAffine(),
        CopyBlocks(),
        Pool(),
        PoolBytes(),
        Softmax(),
        Reduce(),
        ReduceTyped(),
        ArgExtreme(),
        SqueezeExcite(),
        Attention(),
        AttentionInt8(),
        LayerNorm(),
        Recurrent(),
        Filled(),
        IndexCopy(),
        Lookup(),
        AxisMaps(),
        ResizeTaps(),
        ResizeMaps(),
        GatherRows(),
        Indexed(),
        Trees(),
        Running(),
        TopK(),
        BoxesKept(),
        Positions(),
        PoolIndices(),
        GridSample(),
        Einsum(),
        FourierTransform(),
        Determinant(),
        ColumnsToImage(),
        DeformConv(),
        RoiAlign(),
        MaxRoiPool(),
        Histogram(),
        ConvBfloat16(),
        GemmBfloat16(),
        ConvInt8(),
        WinogradInt8(),
        GemmInt8(),
        GemmInt8Batched(),
        Gemm(),
        ConvTransposeFallback(),
        ConvFallback(),
    )
