"""Peak activation memory against MCUNetV2's numbers, and against sums by hand."""

import pytest
import torch
from torch import Tensor, nn

import simulator as sim


class Inverted(nn.Module):
    """The inverted residual block of MobileNetV2."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()] if expansion > 1 else []
        depthwise = [nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        self.layers = nn.Sequential(*expand, *depthwise, nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


def mobilenet_v2() -> nn.Sequential:
    """Return the network of Sandler et al. 2018, Table 2, at width 1."""
    blocks: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())]
    width = 32
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, outputs, repeats, stride in table:
        for place in range(repeats):
            blocks.append(Inverted(width, outputs, stride if place == 0 else 1, expansion))
            width = outputs
    blocks.append(nn.Sequential(nn.Conv2d(width, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()))
    return nn.Sequential(nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return mobilenet_v2()


IMAGE = torch.zeros(1, 3, 224, 224)


def test_mobilenet_v2_needs_1372_kibibytes_at_once(network: nn.Module) -> None:
    peak = sim.peak_activation_memory(network, IMAGE)
    assert peak == 1372 * 1024
    # 112 x 112 x (16 + 96): the first expansion.
    assert peak.operator == "convolution in 0.2.layers.0"
    assert peak.macs == peak.macs_whole == 300_774_272


def test_mobilenet_v2_in_patches_needs_171_kibibytes_and_9_percent_more_macs(network: nn.Module) -> None:
    peak = sim.peak_activation_memory(network, IMAGE, patches=(4, "0.4"))
    assert peak == 171.5 * 1024
    assert peak.kibibytes == 171.5
    assert peak.extra_macs == pytest.approx(0.093, abs=0.0005)
    # Shortcuts that wait are 28 x 28 x 32 more in the fifth block.
    assert sim.peak_activation_memory(network, IMAGE, patches=(4, "0.4"), shortcuts=True) == 196 * 1024


def test_one_patch_is_the_whole_stage(network: nn.Module) -> None:
    whole, patched = (sim.peak_activation_memory(network, IMAGE, patches=patches) for patches in (None, (1, "0.4")))
    assert patched.extra_macs == 0.0
    # The stage's output, 28 x 28 x 32, is held from the start.
    assert patched == whole + 28 * 28 * 32


def test_patches_look_as_far_as_their_kernels() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1), nn.Conv2d(2, 1, 1))
    peak = sim.peak_activation_memory(model, torch.zeros(1, 1, 8, 8), patches=((2, 1), "1"))
    # A half of 4 x 8 needs 5 x 8 of four channels and 6 x 8 of the input; the output of 8 x 8 x 2 is held.
    assert peak == max(6 * 8 + 5 * 8 * 4, 5 * 8 * 4) + 128
    assert peak.macs - peak.macs_whole == 2 * (5 * 8) * 36 - 64 * 36


def test_bits_scale_bytes_and_elementwise_operators_are_free() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Sigmoid())
    x = torch.zeros(1, 2, 4, 4)
    assert [sim.peak_activation_memory(model, x, bits=bits) for bits in (8, 4, 16)] == [64, 32, 128]


def test_a_shortcut_waits() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.narrow(torch.relu(self.wide(x)))

    x = torch.zeros(1, 4, 2, 2)
    assert sim.peak_activation_memory(Block(), x) == 4 * (4 + 16)
    assert sim.peak_activation_memory(Block(), x, shortcuts=True) == 4 * (4 + 16 + 4)


def test_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).train()
    sim.peak_activation_memory(model, torch.ones(2, 1, 4, 4))
    assert model.training and model[1].training and int(model[1].num_batches_tracked) == 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"bits": 0}, "`bits` must be an integer from 1 to 64"),
        ({"patches": (2, "nowhere")}, "must name a module of the model"),
        ({"patches": (2, "3")}, "must name a module whose output is an image"),
        ({"patches": (50, "0")}, "must cut 8 x 8 positions"),
        ({"patches": (2, "1")}, "must be local"),
        ({"patches": 2}, "must be a grid and the name of a module"),
        ({"patches": (2.5, "0")}, "must be a grid and the name of a module"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(options: dict, line: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(128, 2))
    with pytest.raises(ValueError, match=r"^Argument [^\n]*$") as error:
        sim.peak_activation_memory(model, torch.zeros(1, 1, 8, 8), **options)
    assert line in str(error.value)
