"""The digits classifier in PyTorch: a MobileNetV3-style network for 32x32 grey images.

Follows the block design of Howard et al., "Searching for MobileNetV3" (2019), at a size that fits the data. The first
two convolutions have no bias, and InstanceNorm follows them, so that what comes after hardly depends on the light
(instance normalization in early layers: Pan et al., "IBN-Net", ECCV 2018).
"""

# torch is needed for training only, so a checker may run where it is not installed.
# mypy: disable-error-code="import-not-found", disallow-subclassing-any=False, warn-return-any=False

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class BlockSpec:
    """One inverted-residual block: depthwise kernel side, expanded and output channels, stride, options."""

    kernel: int
    expanded: int
    out: int
    stride: int
    squeeze: bool
    hard_swish: bool
    instance_norm: bool = False


# Sides of the feature maps: the stem gives 16x16, then 16, 8, 8, 8, 8, 8, 4, 4.
STEM_CHANNELS = 16
# Added to variances of maps that may be as dark as 1 / 2048, squared 2e-7: the usual 1e-5 would drown them.
DARK = 1e-10
HEAD_CHANNELS = 400
BLOCKS = (
    BlockSpec(3, 16, 16, 1, squeeze=True, hard_swish=False, instance_norm=True),
    BlockSpec(3, 64, 24, 2, squeeze=False, hard_swish=False),
    BlockSpec(3, 80, 24, 1, squeeze=False, hard_swish=False),
    BlockSpec(5, 96, 40, 1, squeeze=True, hard_swish=True),
    BlockSpec(5, 200, 40, 1, squeeze=True, hard_swish=True),
    BlockSpec(5, 200, 40, 1, squeeze=True, hard_swish=True),
    BlockSpec(5, 240, 80, 2, squeeze=True, hard_swish=True),
    BlockSpec(5, 400, 80, 1, squeeze=True, hard_swish=True),
)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution with "same" padding, then BatchNorm, which makes a bias pointless."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate in [0, 1] computed from the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(8, channels // 4)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """float32 [N, C, H, W] in and out."""
        return x * self.gate(x)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, optional squeeze-excite, linear 1x1 projection, residual add."""

    def __init__(self, inputs: int, spec: BlockSpec) -> None:
        super().__init__()
        activation = nn.Hardswish if spec.hard_swish else nn.ReLU
        layers: list[nn.Module] = []
        if spec.expanded != inputs:
            layers += [*_conv(inputs, spec.expanded, 1), activation()]
        layers += _conv(spec.expanded, spec.expanded, spec.kernel, spec.stride, groups=spec.expanded)
        if spec.instance_norm:
            layers[-1] = nn.InstanceNorm2d(spec.expanded, affine=True, eps=DARK)
        layers.append(activation())
        if spec.squeeze:
            layers.append(SqueezeExcite(spec.expanded))
        layers += _conv(spec.expanded, spec.out, 1)
        self.body = nn.Sequential(*layers)
        self.residual = spec.stride == 1 and spec.out == inputs

    def forward(self, x: Tensor) -> Tensor:
        """float32 [N, C, H, W] to float32 [N, spec.out, H / stride, W / stride]."""
        y = self.body(x)
        return x + y if self.residual else y


class DigitNet(nn.Module):
    """float32 images [N, 1, 32, 32] in [0, 1] to float32 logits [N, 10]."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        stem = nn.Conv2d(1, STEM_CHANNELS, 3, stride=2, padding=1, bias=False)
        layers: list[nn.Module] = [stem, nn.ReLU()]
        channels = STEM_CHANNELS
        for spec in BLOCKS:
            layers.append(InvertedResidual(channels, spec))
            channels = spec.out
        layers += [*_conv(channels, HEAD_CHANNELS, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(HEAD_CHANNELS, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, image: Tensor) -> Tensor:
        """float32 [N, 1, 32, 32] to float32 [N, 10]."""
        return self.classifier(self.features(image))
