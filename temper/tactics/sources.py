"""The tactics of every device, in one list each. A new tactic is one class and one line here."""

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
from temper.tactics.cuda import pointwise as cuda_pointwise
from temper.tactics.cuda import pool as cuda_pool
from temper.tactics.cuda import reduce as cuda_reduce
from temper.tactics.cuda import softmax as cuda_softmax
from temper.tactics.cuda.attention import Attention as CudaAttention
from temper.tactics.cuda.attention_int8 import AttentionInt8 as CudaAttentionInt8
from temper.tactics.cuda.conv import ConvImplicitGemm, GemmTiles
from temper.tactics.cuda.conv_pair import ConvPair
from temper.tactics.cuda.conv_transpose import ConvTransposeDirect
from temper.tactics.cuda.depthwise import ConvDirect
from temper.tactics.cuda.depthwise import Depthwise as CudaDepthwise
from temper.tactics.cuda.gates_applied import DepthwiseGated, GatesApplied
from temper.tactics.cuda.group_norm import GroupNorm
from temper.tactics.cuda.matmul import MatMulBatched
from temper.tactics.cuda.movement import movement_tactics
from temper.tactics.cuda.norm import LayerNorm as CudaLayerNorm
from temper.tactics.cuda.product_kept import ConvKept
from temper.tactics.cuda.product_tma import ConvStreamed, GemmStreamed
from temper.tactics.cuda.recurrent import Recurrent as CudaRecurrent
from temper.tactics.cuda.resize import Resize as CudaResize
from temper.tactics.cuda.squeeze_excite import SqueezeExcite as CudaSqueezeExcite
from temper.tactics.cuda.stem import ConvFewChannels
from temper.tactics.cuda.stem_chain import ConvFewChannelsChain
from temper.tactics.cuda.transpose import Transpose


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


def cuda_tactics() -> tuple[Tactic, ...]:
    """Everything that can compute a workload on a GPU."""
    return (
        ConvImplicitGemm(),
        ConvFewChannels(),
        ConvFewChannelsChain(),
        GemmTiles(),
        ConvStreamed(),
        ConvKept(),
        GemmStreamed(),
        MatMulBatched(),
        ConvPair(),
        CudaDepthwise(),
        ConvDirect(),
        ConvTransposeDirect(),
        CudaResize(),
        cuda_pool.Pool(),
        cuda_reduce.Reduce(),
        cuda_reduce.ArgExtreme(),
        CudaRecurrent(),
        CudaAttention(),
        CudaAttentionInt8(),
        CudaLayerNorm(),
        GroupNorm(),
        cuda_softmax.Softmax(),
        CudaSqueezeExcite(),
        GatesApplied(),
        DepthwiseGated(),
        Transpose(),
        *movement_tactics(),
        cuda_pointwise.Pointwise(),
    )
