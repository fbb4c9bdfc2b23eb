"""The tactics of NVIDIA GPUs. A new one is a class of its own and one line here."""

from __future__ import annotations

from temper.tactics.base import Tactic
from temper.tactics.cuda.arg_extreme import ArgExtreme
from temper.tactics.cuda.attention import Attention
from temper.tactics.cuda.attention_int8 import AttentionInt8
from temper.tactics.cuda.axis_maps import AxisMaps
from temper.tactics.cuda.boxes_kept import BoxesKept
from temper.tactics.cuda.conv import ConvImplicitGemm, GemmTiles
from temper.tactics.cuda.conv_onward import ConvOnward
from temper.tactics.cuda.conv_pair import ConvPair
from temper.tactics.cuda.conv_transpose import ConvTransposeDirect
from temper.tactics.cuda.depthwise import ConvDirect, Depthwise
from temper.tactics.cuda.filled import Filled
from temper.tactics.cuda.gates_applied import DepthwiseGated, GatesApplied
from temper.tactics.cuda.gather import GatherElements, GatherND, GatherRows, Lookup, OneHot, ReverseSequence
from temper.tactics.cuda.group_norm import GroupNorm
from temper.tactics.cuda.histogram import Histogram
from temper.tactics.cuda.joins import Concat, Split
from temper.tactics.cuda.matmul import MatMulBatched
from temper.tactics.cuda.norm import LayerNorm
from temper.tactics.cuda.pointwise import Pointwise
from temper.tactics.cuda.pool import Pool
from temper.tactics.cuda.positions import Positions
from temper.tactics.cuda.product_kept import ConvKept
from temper.tactics.cuda.product_tall import ConvTall
from temper.tactics.cuda.product_tma import ConvStreamed, GemmStreamed
from temper.tactics.cuda.recurrent import Recurrent
from temper.tactics.cuda.reduce import Reduce
from temper.tactics.cuda.resize import Resize
from temper.tactics.cuda.resize_maps import ResizeMaps
from temper.tactics.cuda.running import Running
from temper.tactics.cuda.sampling import GridSample, MaxRoiPool, RoiAlign
from temper.tactics.cuda.scatter import ScatterElements, ScatterND
from temper.tactics.cuda.softmax import Softmax
from temper.tactics.cuda.squeeze_excite import SqueezeExcite
from temper.tactics.cuda.stem import ConvFewChannels
from temper.tactics.cuda.stem_chain import ConvFewChannelsChain
from temper.tactics.cuda.sums import ColumnsToImage, DeformConv, Einsum, FourierSums, Hardmax
from temper.tactics.cuda.top_k import TopK, TopKWide
from temper.tactics.cuda.transpose import Transpose


def cuda_tactics() -> tuple[Tactic, ...]:
    """Everything that can compute a workload on a GPU."""
    return (
        ConvImplicitGemm(),
        ConvFewChannels(),
        ConvFewChannelsChain(),
        GemmTiles(),
        ConvStreamed(),
        ConvKept(),
        ConvTall(),
        GemmStreamed(),
        MatMulBatched(),
        ConvPair(),
        ConvOnward(),
        Depthwise(),
        ConvDirect(),
        ConvTransposeDirect(),
        Resize(),
        ResizeMaps(),
        Pool(),
        Reduce(),
        ArgExtreme(),
        Recurrent(),
        Attention(),
        AttentionInt8(),
        LayerNorm(),
        GroupNorm(),
        Softmax(),
        SqueezeExcite(),
        GatesApplied(),
        DepthwiseGated(),
        Transpose(),
        AxisMaps(),
        Concat(),
        Split(),
        GatherRows(),
        GatherElements(),
        GatherND(),
        Lookup(),
        OneHot(),
        ReverseSequence(),
        ScatterElements(),
        ScatterND(),
        Filled(),
        Running(),
        TopK(),
        TopKWide(),
        Positions(),
        BoxesKept(),
        Histogram(),
        GridSample(),
        RoiAlign(),
        MaxRoiPool(),
        Einsum(),
        FourierSums(),
        ColumnsToImage(),
        DeformConv(),
        Hardmax(),
        Pointwise(),
    )
