"""Normalisations of ONNX."""

from __future__ import annotations

from temper.errors import ShapeError
from temper.frontends.onnx.context import Context, Refusal, Row
from temper.ir.graph import Value


def _training(c: Context) -> list[Value]:
    """Normalised by the batch's own mean and variance, and these averaged into the running ones."""
    x, momentum = c.input(0), c.attr("momentum", 0.9)
    if x.type.rank < 2:
        raise Refusal(f"training mode on {x.type}, which has no channel axis")
    axes = (0, *range(2, x.type.rank))
    channels = x.type.shape[1]
    shape = (channels, *(1,) * (x.type.rank - 2))
    mean = c.emit("ReduceMean", x, axes=axes, keepdims=1)
    d = c.emit("Sub", x, mean)
    variance = c.emit("ReduceMean", c.emit("Mul", d, d), axes=axes, keepdims=1)
    spread = c.emit("Sqrt", c.emit("Add", variance, c.like(c.attr("epsilon", 1e-5), variance)))
    scaled = c.emit("Mul", c.emit("Div", d, spread), c.reshape(c.input(1), shape))
    out = [c.emit("Add", scaled, c.reshape(c.input(2), shape))]
    for old, new in ((c.input(3), mean), (c.input(4), variance)):
        own = c.reshape(new, (channels,))
        kept = c.emit("Mul", old, c.like(momentum, old))
        out.append(c.emit("Add", kept, c.emit("Mul", own, c.like(1 - momentum, own))))
    return out


def _batch_normalization(c: Context) -> Value | list[Value]:
    if c.attr("training_mode", 0) and c.opset >= 14:
        return _training(c)
    if c.attr("training_mode", 0) or (c.opset < 7 and not c.attr("is_test", 0)):
        raise Refusal("training mode is not supported; export the model for inference")
    if c.attr("spatial", 1) != 1:
        raise Refusal("spatial=0 is not supported")
    return c.emit("BatchNormalization", *c.inputs, epsilon=c.attr("epsilon", 1e-5))


def _layer_normalization(c: Context) -> Value:
    if c.attr("stash_type", 1) != 1:
        raise Refusal(f"stash_type {c.attr('stash_type')} is not supported")
    return c.emit(
        "LayerNormalization", *c.inputs, axis=c.axis(c.input(0).type.rank, -1), epsilon=c.attr("epsilon", 1e-5)
    )


def _instance_normalization(c: Context) -> Value:
    return c.emit("InstanceNormalization", *c.inputs, epsilon=c.attr("epsilon", 1e-5))


def _local_response(c: Context) -> Value:
    return c.emit("LRN", c.input(0), **c.take("alpha", "beta", "bias", "size"))


def _lp_normalization(c: Context) -> Value:
    """x divided by its norm along an axis; 0 where the norm is 0."""
    x = c.input(0)
    axes = (c.axis(x.type.rank, -1),)
    if c.attr("p", 2) == 1:
        norm = c.emit("ReduceSum", c.emit("Abs", x), axes=axes, keepdims=1)
    elif c.attr("p", 2) == 2:
        norm = c.emit("Sqrt", c.emit("ReduceSum", c.emit("Mul", x, x), axes=axes, keepdims=1))
    else:
        raise ShapeError(f"{c}: attribute 'p' must be 1 or 2, not {c.attr('p')}")
    zero = c.like(0.0, x)
    return c.emit("Where", c.emit("Equal", norm, zero), zero, c.emit("Div", x, norm))


def _group_normalization(c: Context) -> Value:
    x, groups = c.input(0), c.attr("num_groups")
    scale, bias = c.input(1), c.input(2)
    if c.opset < 21:
        # One scale and bias for each group, where later versions have one for each channel.
        channels = x.type.shape[1] if x.type.rank > 1 else 0
        if not isinstance(channels, int) or groups < 1 or channels % groups:
            raise ShapeError(f"{c}: {channels} channels do not divide into {groups} groups")
        each = channels // groups
        scale, bias = (
            c.reshape(c.emit("Expand", c.reshape(v, (groups, 1)), shape=(groups, each)), (channels,))
            for v in (scale, bias)
        )
    return c.emit("GroupNormalization", x, scale, bias, num_groups=groups, epsilon=c.attr("epsilon", 1e-5))


def _rms_normalization(c: Context) -> Value:
    if c.attr("stash_type", 1) != 1:
        raise Refusal(f"stash_type {c.attr('stash_type')} is not supported")
    axis = c.axis(c.input(0).type.rank, -1)
    return c.emit("RMSNormalization", *c.inputs, axis=axis, epsilon=c.attr("epsilon", 1e-5))


ROWS: tuple[Row, ...] = (
    Row("BatchNormalization", _batch_normalization),
    Row("LayerNormalization", _layer_normalization),
    Row("GroupNormalization", _group_normalization),
    Row("RMSNormalization", _rms_normalization),
    Row("InstanceNormalization", _instance_normalization),
    Row("LRN", _local_response),
    Row("LpNormalization", _lp_normalization),
)
