"""Networks to train: small ones of the kinds that are deployed, and a way to make any of them hard to quantize.

`Net.pairs` names what follows upon what with nothing between but ReLU, so that channels of the first may be scaled and
the second scaled back: in float nothing changes, while one scale a tensor has to serve channels of unlike size.
"""

# torch is needed for training only, so a checker may run where it is not installed.
# mypy: disable-error-code="import-not-found,no-any-return,misc,unused-ignore"

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Pair = tuple[nn.Module, Sequence[nn.Module]]


class Net(nn.Module):
    """pairs: see above."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[Pair] = []


def uneven(net: Net, generator: torch.Generator, spread: float) -> None:
    """Scales channels by powers of two, `spread` octaves in standard deviation, at most 16 times that of others."""
    with torch.no_grad():
        for first, seconds in net.pairs:
            n = len(first.weight)
            octaves = (torch.randn(n, generator=generator) * spread).round().clamp(-3, 4)
            s = torch.exp2(octaves)
            first.weight.mul_(s.view(-1, *[1] * (first.weight.dim() - 1)))
            if first.bias is not None:
                first.bias.mul_(s)
            for second in seconds:
                w = second.weight
                own = getattr(second, "groups", 1) > 1
                w.div_(s.view((-1, *[1] * (w.dim() - 1)) if own else (1, -1, *[1] * (w.dim() - 2))))


# ---- pictures ----

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "hswish": nn.Hardswish, "silu": nn.SiLU, "gelu": nn.GELU, "none": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.1),
}  # fmt: skip


def conv(i: int, o: int, k: int = 3, stride: int = 1, groups: int = 1, act: str = "relu") -> nn.Sequential:
    """Convolution, normalisation, activation."""
    return nn.Sequential(
        nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o), ACTIVATIONS[act]()
    )


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, gate: str) -> None:
        super().__init__()
        inner = max(8, channels // 4)
        self.down, self.up = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)
        self.gate = nn.Hardsigmoid() if gate == "hard" else nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Residual(nn.Module):
    def __init__(self, i: int, o: int, stride: int, net: Net) -> None:
        super().__init__()
        self.a, self.b = conv(i, o, 3, stride), conv(o, o, act="none")
        self.short = conv(i, o, 1, stride, act="none") if stride > 1 or i != o else nn.Identity()
        net.pairs.append((self.a[1], [self.b[0]]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.b(self.a(x)) + self.short(x))


class Inverted(nn.Module):
    """Expansion, depthwise convolution, projection."""

    def __init__(self, i: int, o: int, stride: int, act: str, excite: str, net: Net, kernel: int = 3) -> None:
        super().__init__()
        m = 4 * i
        self.expand, self.depth = conv(i, m, 1, act=act), conv(m, m, kernel, stride, m, act)
        self.excite = Excite(m, excite) if excite else nn.Identity()
        self.project = conv(m, o, 1, act="none")
        self.skip = stride == 1 and i == o
        if act == "relu":
            net.pairs.append((self.expand[1], [self.depth[0]]))
            if not excite:
                net.pairs.append((self.depth[1], [self.project[0]]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.excite(self.depth(self.expand(x))))
        return x + y if self.skip else y


class Shuffle(nn.Module):
    """A ShuffleNet unit: half of the channels pass, and channels are interleaved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        h = channels // 2
        self.body = nn.Sequential(conv(h, h, 1), conv(h, h, 3, 1, h, "none"), conv(h, h, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        y = torch.cat([a, self.body(b)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Dense(nn.Module):
    """Concatenates what it makes with what it is given."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(channels), nn.Conv2d(channels, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], 1)


class Next(nn.Module):
    """A ConvNeXt block, channels first outside."""

    def __init__(self, channels: int, net: Net) -> None:
        super().__init__()
        self.depth = nn.Conv2d(channels, channels, 7, 1, 3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        net.pairs.append((self.norm, [self.up]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        return x + self.down(nn.functional.gelu(self.up(y))).permute(0, 3, 1, 2)


class Pictures(Net):
    """A stem, blocks, mean over places, one product. kind: of the blocks."""

    def __init__(self, kind: str, shape: Sequence[int], outputs: int, width: int, depth: int) -> None:
        super().__init__()
        w = width
        acts = {"mobile": "relu6", "mobile3": "hswish", "efficient": "silu", "depthwise": "relu", "leaky": "leaky"}
        act = acts.get(kind, "relu")
        body: list[nn.Module] = [conv(shape[0], w, act=act)]
        if kind == "next":
            body = [nn.Conv2d(shape[0], w, 2, 2)]
        stages = 2 if shape[1] < 32 else 3
        for stage in range(stages):
            o = min(w * 2, 64)
            if kind == "plain" or kind == "leaky":
                body += [conv(w, o, 3, 2, act=act), *(conv(o, o, act=act) for _ in range(depth - 1))]
            elif kind == "vgg":
                body += [nn.Conv2d(w, o, 3, 1, 1), nn.ReLU(), nn.Conv2d(o, o, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)]
                self.pairs.append((body[-5], [body[-3]]))
            elif kind == "residual":
                body += [Residual(w if b == 0 else o, o, 2 if b == 0 else 1, self) for b in range(depth)]
            elif kind in ("mobile", "mobile3", "efficient", "depthwise"):
                excite = {"mobile3": "hard", "efficient": "soft"}.get(kind, "")
                o = min(w + w // 2, 96) // 8 * 8
                k = 5 if stage == 1 and excite else 3
                body += [
                    Inverted(w if b == 0 else o, o, 2 if b == 0 else 1, act, excite, self, k) for b in range(depth)
                ]
            elif kind == "shuffle":
                body += [conv(w, o, 3, 2), *(Shuffle(o) for _ in range(depth))]
            elif kind == "dense":
                body += [Dense(w + b * w // 2, w // 2) for b in range(depth)]
                grown = w + depth * (w // 2)
                body += [conv(grown, o, 1), nn.AvgPool2d(2)]
            else:
                body += [Next(w, self) for _ in range(depth)]
                if stage < stages - 1:
                    body += [nn.Conv2d(w, o, 2, 2)]
                else:
                    o = w
            w = o
        self.body, self.last = nn.Sequential(*body), nn.Linear(w, outputs)
        if kind == "plain":
            self.pairs += [(a[1], [b[0]]) for a, b in zip(body, body[1:], strict=False)]
        if kind == "vgg":
            convs = [m for m in body if isinstance(m, nn.Conv2d)]
            self.pairs += [(a, [b]) for a, b in zip(convs[1::2], convs[2::2], strict=False)]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x).mean((2, 3)))


class Dscnn(Net):
    """Keyword spotting: a wide stem, then separable convolutions of one size, all ReLU."""

    def __init__(self, shape: Sequence[int], outputs: int, width: int, depth: int) -> None:
        super().__init__()
        body = [nn.Sequential(nn.Conv2d(shape[0], width, (10, 4), 2, (4, 1)), nn.BatchNorm2d(width), nn.ReLU())]
        for _ in range(depth):
            body += [conv(width, width, 3, 1, width), conv(width, width, 1)]
        self.body, self.last = nn.Sequential(*body), nn.Linear(width, outputs)
        blocks = list(self.body)[1:]
        self.pairs += [(a[1], [b[0]]) for a, b in zip(blocks, blocks[1:], strict=False)]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x).mean((2, 3)))


class Lines(Net):
    """Text lines: convolutions, then for five places across one answer each; recurrent or not."""

    def __init__(self, kind: str, shape: Sequence[int], outputs: int, width: int) -> None:
        super().__init__()
        w = width
        self.body = nn.Sequential(
            conv(shape[0], w), nn.MaxPool2d(2), Residual(w, 2 * w, 2, self), Residual(2 * w, 3 * w, 2, self)
        )
        self.recurrent = nn.LSTM(9 * w, 2 * w, batch_first=True, bidirectional=True) if kind == "crnn" else None
        self.mix = nn.Conv1d(9 * w, 4 * w, 3, 1, 1) if kind != "crnn" else None
        self.last = nn.Linear(4 * w, outputs)
        self.pool = nn.AdaptiveAvgPool1d(5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y = y.reshape(y.shape[0], -1, y.shape[3])
        if self.recurrent is not None:
            y = self.recurrent(y.transpose(1, 2))[0]
        else:
            assert self.mix is not None
            y = torch.relu(self.mix(y)).transpose(1, 2)
        return self.last(self.pool(y.transpose(1, 2)).transpose(1, 2))


class Unet(Net):
    """Down, up, and across."""

    def __init__(self, kind: str, shape: Sequence[int], outputs: int, width: int) -> None:
        super().__init__()
        w = width
        self.a = nn.Sequential(conv(shape[0], w), conv(w, w))
        if kind == "separable":
            self.b = nn.Sequential(conv(w, w, 3, 2, w), conv(w, 2 * w, 1), conv(2 * w, 2 * w, 3, 1, 2 * w))
            self.c = nn.Sequential(conv(2 * w, 2 * w, 3, 2, 2 * w), conv(2 * w, 4 * w, 1, act="hswish"))
        else:
            self.b = nn.Sequential(conv(w, 2 * w, 3, 2), conv(2 * w, 2 * w))
            self.c = nn.Sequential(conv(2 * w, 4 * w, 3, 2), conv(4 * w, 4 * w))
        self.up_b = nn.ConvTranspose2d(4 * w, 2 * w, 2, 2) if kind == "transposed" else None
        self.mix_b = conv((4 if self.up_b is not None else 6) * w, 2 * w)
        self.mix_a, self.last = conv(3 * w, w), nn.Conv2d(w, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        c = self.c(b)
        wide = self.up_b(c) if self.up_b is not None else nn.functional.interpolate(c, scale_factor=2.0)
        b = self.mix_b(torch.cat([wide, b], 1))
        return self.last(self.mix_a(torch.cat([nn.functional.interpolate(b, scale_factor=2.0), a], 1)))


class Denoiser(Net):
    """Predicts the noise and takes it off."""

    def __init__(self, shape: Sequence[int], width: int, depth: int) -> None:
        super().__init__()
        middle = [conv(width, width) for _ in range(depth)]
        self.body = nn.Sequential(nn.Conv2d(shape[0], width, 3, 1, 1), nn.ReLU(), *middle)
        self.last = nn.Conv2d(width, shape[0], 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.last(self.body(x))


# ---- sequences ----


class Block(nn.Module):
    """A transformer's block, normalised before."""

    def __init__(self, width: int, heads: int, causal: bool, act: str, net: Net) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads, self.causal, self.act = heads, causal, ACTIVATIONS[act]()
        net.pairs += [(self.norm1, [self.qkv]), (self.norm2, [self.up])]

    def forward(self, x: Tensor) -> Tensor:
        n, t, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(w // self.heads)
        if self.causal:
            mask = torch.triu(torch.full((t, t), -1e9, device=x.device), 1)
            scores = scores + mask
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, w)
        x = x + self.out(y)
        return x + self.down(self.act(self.up(self.norm2(x))))


class Transformer(Net):
    """Of pictures ("vit", pieces of 4 x 4), of tokens with one answer ("encoder") or with one at every place ("gpt"),
    of columns of a spectrum ("columns")."""

    def __init__(
        self, kind: str, shape: Sequence[int], tokens: int, outputs: int, width: int, depth: int, act: str = "gelu"
    ) -> None:
        super().__init__()
        self.kind = kind
        if kind == "vit":
            self.embed: nn.Module = nn.Conv2d(shape[0], width, 4, 4)
            length = shape[1] * shape[2] // 16
        elif kind == "columns":
            self.embed, length = nn.Linear(shape[1], width), shape[2]
        else:
            self.embed, length = nn.Embedding(tokens, width), shape[0]
        self.place = nn.Parameter(torch.randn(1, length, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, 4, kind == "gpt", act, self) for _ in range(depth)))
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, outputs)
        self.pairs.append((self.norm, [self.last]))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "vit":
            x = self.embed(x).flatten(2).transpose(1, 2)
        elif self.kind == "columns":
            x = self.embed(x.squeeze(1).transpose(1, 2))
        else:
            x = self.embed(x)
        x = self.blocks(x + self.place)
        return self.last(self.norm(x if self.kind == "gpt" else x.mean(1)))


class Mixer(Net):
    """MLPs over places and over channels in turn."""

    def __init__(self, shape: Sequence[int], outputs: int, width: int, depth: int) -> None:
        super().__init__()
        places = shape[1] * shape[2] // 16
        self.embed = nn.Conv2d(shape[0], width, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth))
        self.over = nn.ModuleList(
            nn.Sequential(nn.Linear(n, 2 * n), nn.GELU(), nn.Linear(2 * n, n))
            for _ in range(depth)
            for n in (places, width)
        )
        self.last = nn.Linear(width, outputs)
        self.pairs += [(self.norms[i], [self.over[i][0]]) for i in range(1, 2 * depth, 2)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        for i, (norm, over) in enumerate(zip(self.norms, self.over, strict=True)):
            y = norm(x)
            x = x + (over(y) if i % 2 else over(y.transpose(1, 2)).transpose(1, 2))
        return self.last(x.mean(1))


class Recurrent(Net):
    """LSTM or GRU over values or tokens; the last state answers, or every one."""

    def __init__(self, kind: str, shape: Sequence[int], tokens: int, outputs: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width) if tokens else nn.Linear(shape[1], width)
        made = nn.GRU if kind == "gru" else nn.LSTM
        self.cells = made(width, width, num_layers=2, batch_first=True)
        self.every, self.last = bool(tokens), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cells(self.embed(x))[0]
        return self.last(y if self.every else y[:, -1])


class Temporal(Net):
    """Convolutions over time: residual and dilated, or of tokens."""

    def __init__(self, shape: Sequence[int], tokens: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width) if tokens else None
        self.first = nn.Conv1d(width if tokens else shape[1], width, 3, 1, 1)
        self.a = nn.ModuleList(nn.Conv1d(width, width, 3, 1, 2**i, 2**i, bias=False) for i in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(depth))
        self.b = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(depth))
        self.last = nn.Linear(width, outputs)
        self.pairs += [(n, [b]) for n, b in zip(self.norms, self.b, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        x = (self.embed(x) if self.embed is not None else x).transpose(1, 2)
        x = torch.relu(self.first(x))
        for a, norm, b in zip(self.a, self.norms, self.b, strict=True):
            x = torch.relu(x + b(torch.relu(norm(a(x)))))
        return self.last(x.amax(2))


class Dense1(Net):
    """Layers of one product each, of a picture's pixels or a series' values."""

    def __init__(self, shape: Sequence[int], outputs: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [math.prod(shape), *[width] * depth]
        layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
        self.layers, self.last = nn.ModuleList(layers), nn.Linear(width, outputs)
        self.pairs += [(a, [b]) for a, b in zip(layers, [*layers[1:], self.last], strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.last(x)
