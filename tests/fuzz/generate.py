"""Random small graphs from the op table: convolutional nets with everything exporters put around convolutions.

Values in flight are [N, C, H, W]; a graph ends in up to three outputs. All weights come from the seed, and data stays
near one in magnitude, so that numbers remain comparable after reordering.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from temper.ir.dims import Dim, DimLike
from temper.ir.graph import Graph, Value
from tests.passes.nets import Net

N = Dim.symbol("N")

UNARY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Relu", {}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("HardSwish", {}),
    ("HardSigmoid", {"alpha": 0.25}),
    ("Silu", {}),
    ("Gelu", {}),
    ("LeakyRelu", {"alpha": 0.1}),
    ("Clip", {"min": -1.0, "max": 2.5}),
    ("Abs", {}),
    ("Neg", {}),
    ("Softplus", {}),
    ("Elu", {}),
    ("Identity", {}),
    ("Erf", {}),
    ("Mish", {}),
    ("Softsign", {}),
)


class Fuzzer:
    """One random graph."""

    def __init__(self, seed: int, steps: int = 12) -> None:
        self.rng = np.random.default_rng(seed)
        self.net = Net(seed)
        self.batch: DimLike = self.choose([1, 1, 2, 3, N, N])
        size = int(self.rng.integers(5, 14))
        self.values = [
            self.net.input(self.batch, int(self.rng.integers(1, 7)), size, size + int(self.rng.integers(0, 3)))
        ]
        if self.chance(0.3):
            self.values.append(self.net.input(*self.values[0].type.shape, name="x2"))
        makers: list[Callable[[Value], Value | None]] = [getattr(self, n) for n in dir(self) if n.startswith("op_")]
        while steps:
            made = self.choose(makers)(self.pick())
            if made is not None and 0 not in made.type.shape:
                self.values.append(made)
                steps -= 1

    # ---- choices ----

    def choose(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self) -> Value:
        """A value, most likely a recent one."""
        back = min(int(self.rng.geometric(0.5)), len(self.values))
        return self.values[-back]

    def shape(self, x: Value) -> tuple[DimLike, int, int, int]:
        n, c, h, w = x.type.shape
        return n, int(str(c)), int(str(h)), int(str(w))

    def partner(self, x: Value) -> Value:
        """A value that broadcasts against `x`: of equal shape if there is one, else a constant or a part of `x`."""
        same = [v for v in self.values if v.type == x.type and v is not x]
        _, c, h, w = self.shape(x)
        if same and self.chance(0.6):
            return self.choose(same)
        constants: list[tuple[int, ...]] = [(), (1,), (c, 1, 1), (1, c, 1, 1), (1, 1, w), (h, 1), (c, h, w)]
        if self.chance(0.3):
            return self.net("ReduceMean", x, axes=self.choose([(2, 3), (1,), (3,), (1, 2, 3)]), keepdims=1)
        return self.net.weights(*self.choose(constants), scale=0.5)

    # ---- ops: a new value, or None where it does not fit ----

    def op_conv(self, x: Value) -> Value | None:
        _, c, h, w = self.shape(x)
        kernel, stride, dilation = self.choose([1, 1, 3, 3, 5, 2]), self.choose([1, 1, 2]), self.choose([1, 1, 1, 2])
        group = self.choose([g for g in (1, 1, 2, c) if c % g == 0])
        pad = self.choose([0, kernel // 2 * dilation])
        if min(h, w) + 2 * pad < (kernel - 1) * dilation + 1:
            return None
        features = group * int(self.rng.integers(1, 5)) if group > 1 else int(self.rng.integers(1, 13))
        return self.net.conv(
            x,
            min(features, 24 // group * group),
            kernel,
            stride=stride,
            pad=pad,
            group=group,
            dilation=dilation,
            bias=self.chance(0.7),
        )

    op_conv_again = op_conv
    op_conv_more = op_conv

    def op_conv_transpose(self, x: Value) -> Value | None:
        _, c, h, w = self.shape(x)
        if max(h, w) > 16 or c > 12:
            return None
        kernel, stride = self.choose([1, 2, 3, 4]), self.choose([1, 2])
        pad, extra = self.choose([0, min(1, kernel - 1)]), self.choose([0, stride - 1])
        group = self.choose([g for g in (1, 2) if c % g == 0])
        inputs = [x, self.net.weights(c, int(self.rng.integers(1, 5)), kernel, kernel)]
        return self.net(
            "ConvTranspose",
            *inputs,
            strides=(stride, stride),
            pads=(pad,) * 4,
            dilations=(1, 1),
            group=group,
            output_padding=(extra, extra),
        )

    def op_unary(self, x: Value) -> Value:
        op, attrs = self.choose(UNARY)
        return self.net(op, x, **attrs)

    op_unary_again = op_unary

    def op_binary(self, x: Value) -> Value:
        pair = [x, self.partner(x)]
        return self.net(
            self.choose(["Add", "Sub", "Mul", "Max", "Min", "Add", "Mul"]), *(pair if self.chance(0.7) else pair[::-1])
        )

    op_binary_again = op_binary

    def op_div(self, x: Value) -> Value:
        return self.net("Div", x, self.net("Add", self.net("Abs", self.partner(x)), self.net.const(1.0)))

    def op_where(self, x: Value) -> Value:
        return self.net("Where", self.net("Greater", x, self.partner(x)), x, self.partner(x))

    def op_prelu(self, x: Value) -> Value:
        return self.net("PRelu", x, self.net.weights(self.shape(x)[1], 1, 1))

    def op_written_out(self, x: Value) -> Value:
        """Activations in primitive ops."""
        n = self.net
        form = self.choose("shg")
        if form == "s":
            return n("Mul", x, n("Sigmoid", x))
        if form == "h":
            return n("Mul", x, n("Div", n("Clip", n("Add", x, n.const(3.0)), min=0.0, max=6.0), n.const(6.0)))
        inner = n("Add", n("Erf", n("Div", x, n.const(np.sqrt(2.0)))), n.const(1.0))
        return n("Mul", n("Mul", x, inner), n.const(0.5))

    def op_batch_norm(self, x: Value) -> Value:
        c = self.shape(x)[1]
        variance = self.net.const((self.rng.random(c) + 0.5).astype(np.float32))
        return self.net("BatchNormalization", x, *(self.net.weights(c) for _ in range(3)), variance, epsilon=1e-3)

    def op_normalize(self, x: Value) -> Value | None:
        _, c, h, w = self.shape(x)
        if h * w < 6:
            return None
        attrs = {"epsilon": 0.1}
        if self.chance(0.5):
            return self.net("InstanceNormalization", x, self.net.weights(c), self.net.weights(c), **attrs)
        groups = self.choose([g for g in (1, 2, 3) if c % g == 0])
        return self.net("GroupNormalization", x, self.net.weights(c), self.net.weights(c), num_groups=groups, **attrs)

    def op_lrn(self, x: Value) -> Value:
        return self.net("LRN", x, size=self.choose([1, 3, 5]), alpha=0.1, bias=1.0)

    def op_pool(self, x: Value) -> Value | None:
        _, _, h, w = self.shape(x)
        kernel, stride = self.choose([2, 3]), self.choose([1, 2])
        pad = self.choose([0, kernel // 2])
        if min(h, w) + 2 * pad < kernel:
            return None
        if self.chance(0.5):
            return self.net.pool(x, "MaxPool", kernel, stride, pad, ceil_mode=self.choose([0, 0, 1]))
        return self.net.pool(x, "AveragePool", kernel, stride, pad, count_include_pad=self.choose([0, 1]))

    def op_squeeze_excite(self, x: Value) -> Value:
        c = self.shape(x)[1]
        s = self.net("ReduceMean", x, axes=(2, 3), keepdims=1)
        s = self.net.conv(self.net("Relu", self.net.conv(s, 3)), c)
        return self.net("Mul", self.net(self.choose(["Sigmoid", "HardSigmoid"]), s), x)

    def op_residual(self, x: Value) -> Value:
        c = self.shape(x)[1]
        y = self.net.conv(self.net("Relu", self.net.conv(x, c, 3)), c, 3)
        return self.net("Relu", self.net("Add", x, y))

    def op_concat(self, x: Value) -> Value | None:
        n, c, h, w = self.shape(x)
        fits = [v for v in self.values if v.type.shape[2:] == x.type.shape[2:] and self.shape(v)[1] <= 16]
        chosen = [x, *(self.choose(fits) for _ in range(int(self.rng.integers(1, 3))))] if fits else [x, x]
        if sum(self.shape(v)[1] for v in chosen) > 32:
            return None
        if self.chance(0.15) and h < 10:
            return self.net("Concat", x, x, axis=self.choose([2, 3]))
        return self.net("Concat", *chosen, axis=self.choose([1, -3]))

    op_concat_again = op_concat

    def op_split(self, x: Value) -> Value | None:
        axis = self.choose([1, 1, 1, 2, 3])
        size = self.shape(x)[axis]
        if size < 2:
            return None
        cut = int(self.rng.integers(1, size))
        a, b = self.net.many("Split", x, axis=axis, sizes=(cut, size - cut))
        self.values.append(a)
        return b

    op_split_again = op_split

    def op_cross_stage(self, x: Value) -> Value | None:
        c = self.shape(x)[1]
        if c < 2 or c % 2 or c > 16:
            return None
        a, b = self.net.many("Split", x, axis=1, sizes=(c // 2, c // 2))
        b2 = self.net("Add", self.net.conv(b, c // 2, 3), b)
        return self.net.conv(self.net("Concat", a, b, b2, axis=1), c)

    def op_pad(self, x: Value) -> Value | None:
        _, c, h, w = self.shape(x)
        if min(h, w) < 3 or max(h, w) > 20:
            return None
        t, b, left, r = (int(v) for v in self.rng.integers(0, 3, 4))
        mode = self.choose(["constant", "constant", "edge", "reflect", "wrap"])
        pads = (0, 0, t, left, 0, 0, b, r)
        if mode == "constant" and self.chance(0.3) and c < 16:
            pads = (0, 1, t, left, 0, 0, b, -1 if w > 3 else 0)
        return self.net("Pad", x, pads=pads, mode=mode, value=self.choose([0.0, 0.0, 0.5]) if mode == "constant" else 0)

    def op_slice(self, x: Value) -> Value | None:
        _, c, h, w = self.shape(x)
        axis = self.choose([1, 2, 3])
        size = (0, c, h, w)[axis]
        if size < 3:
            return None
        start, step = int(self.rng.integers(0, 2)), self.choose([1, 1, 2, -1])
        bounds = {"starts": (start,), "ends": (1 << 31,)} if step > 0 else {"starts": (-1,), "ends": (-(1 << 31),)}
        return self.net("Slice", x, **bounds, axes=(axis,), steps=(step,))

    def op_resize(self, x: Value) -> Value | None:
        n, c, h, w = self.shape(x)
        if max(h, w) > 12 or min(h, w) < 2:
            return None
        mode = self.choose(["nearest", "nearest", "linear", "cubic"])
        if self.chance(0.6) or n is N:
            scale = self.choose([2.0, 1.5, 0.5])
            return self.net("Resize", x, scales=(1.0, 1.0, scale, self.choose([scale, 2.0])), mode=mode)
        sizes = (n, c, int(self.rng.integers(1, 16)), int(self.rng.integers(1, 16)))
        return self.net(
            "Resize",
            x,
            sizes=sizes,
            mode=mode,
            coordinate_transformation_mode=self.choose(["half_pixel", "align_corners", "asymmetric"]),
        )

    def op_shuffle(self, x: Value) -> Value | None:
        n, c, h, w = self.shape(x)
        g = self.choose([g for g in (1, 2, 3, 4) if c % g == 0])
        y = self.net("Reshape", x, shape=(n, g, c // g, h, w))
        return self.net("Reshape", self.net("Transpose", y, perm=(0, 2, 1, 3, 4)), shape=(n, c, h, w))

    def op_depth_to_space(self, x: Value) -> Value | None:
        n, c, h, w = self.shape(x)
        if c % 4 == 0 and max(h, w) < 12:
            return self.net("DepthToSpace", x, blocksize=2, mode=self.choose(["DCR", "CRD"]))
        return self.net("SpaceToDepth", x, blocksize=2) if h % 2 == 0 and w % 2 == 0 and c < 8 else None

    def op_swap(self, x: Value) -> Value:
        """Layout noise: transposes and reshapes that exporters leave."""
        n, c, h, w = self.shape(x)
        form = self.choose("abcd")
        if form == "a":
            y = self.net("Relu", self.net("Transpose", x, perm=(0, 2, 3, 1)))
            return self.net("Transpose", y, perm=(0, 3, 1, 2))
        if form == "b":
            return self.net("Transpose", x, perm=(0, 1, 3, 2))
        if form == "c":
            return self.net(
                "Reshape", self.net("Sigmoid", self.net("Reshape", x, shape=(n, c, h * w))), shape=(n, c, h, w)
            )
        return self.net("Reshape", x, shape=(n, h, w, c))

    def op_sequence(self, x: Value) -> Value | None:
        """Tokens, as attention and box decoders have them: in rank 3 "to first" and "to last" are one permutation."""
        n, c, h, w = self.shape(x)
        net = self.net
        tokens = net("Transpose", net("Reshape", x, shape=(n, c, h * w)), perm=(0, 2, 1))
        y = net(self.choose(["Relu", "Sigmoid"]), tokens)
        if self.chance(0.5):
            y = net("MatMul", y, net.weights(c, c))
        if self.chance(0.5):
            y = net("Softmax", y, axis=self.choose([1, 2]))
        if self.chance(0.6):
            y = net(self.choose(["Add", "Mul"]), y, tokens)
        if self.chance(0.3):
            y = net("Concat", y, tokens, axis=self.choose([1, 2]))
            y = net.many("Split", y, axis=2, sizes=(c, c))[1] if y.type.shape[2] != c else y
        if y.type.shape != tokens.type.shape:
            y = net.many("Split", y, axis=1, sizes=(h * w, h * w))[0]
        y = net("Transpose", y, perm=(0, 2, 1))
        return net("Reshape", y, shape=(n, c, h, w))

    def op_softmax(self, x: Value) -> Value:
        return self.net("Softmax", x, axis=self.choose([1, 2, 3, -1]))

    def op_reduce(self, x: Value) -> Value | None:
        op = self.choose(["ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin"])
        axes = self.choose([(1,), (2,), (3,), (-1, -2)])
        small = self.net("Mul", x, self.net.const(0.2)) if op == "ReduceSum" else x
        y = self.net(op, small, axes=axes, keepdims=1)
        if self.chance(0.3):
            y = self.net("Reshape", self.net(op, small, axes=axes, keepdims=0), shape=y.type.shape)
        return self.net("Add", y, x)

    def op_gather(self, x: Value) -> Value | None:
        axis = self.choose([1, 2, 3])
        size = self.shape(x)[axis]
        indices = self.net.const(self.rng.integers(-size, size, int(self.rng.integers(1, 6))).astype(np.int64))
        return self.net("Gather", x, indices, axis=axis)

    # ---- the end ----

    def classify(self, x: Value) -> Value:
        n, c, h, w = self.shape(x)
        if self.chance(0.5):
            x, features = self.net("Reshape", self.net("ReduceMean", x, axes=(2, 3), keepdims=1), shape=(n, c)), c
        else:
            x, features = self.net("Reshape", x, shape=(n, c * h * w)), c * h * w
        y = self.net("MatMul", x, self.net.weights(features, 7, scale=features**-0.5))
        y = self.net("Add", y, self.net.weights(7))
        return self.net("Softmax", y, axis=-1) if self.chance(0.5) else y

    def graph(self) -> Graph:
        unused = [v for v in self.values if not v.uses and v.producer is not None] or [self.values[-1]]
        outputs = unused[-3:]
        if self.chance(0.5):
            outputs[-1] = self.classify(outputs[-1])
        if self.chance(0.2):
            outputs.append(self.pick())
        g = self.net.graph
        g.set_outputs(list(dict.fromkeys(outputs)), [f"y{i}" for i in range(len(dict.fromkeys(outputs)))])
        g.prune()
        return g


def random_graph(seed: int) -> Graph:
    """The graph of a seed; its only symbol, if any, is N."""
    return Fuzzer(seed).graph()
