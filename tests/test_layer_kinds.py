"""Every kind of layer with its options: on an ideal crossbar it is torch's layer, with the multiply-accumulates of a count by hand."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import simulator as sim
from devices import RRAMCrossbar
from simulator.lowering.wholes import show_weights
from tests.test_compile import relative_error, shaken

IDEAL = RRAMCrossbar.preset("wan_nature_2022").ideal()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def flat(value: Any) -> list[Tensor]:
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, Tensor):
        return [value]
    return [one for part in value or () for one in flat(part)]


def equal(found: Any, expected: Any) -> bool:
    pairs = list(zip(flat(found), flat(expected), strict=True))
    return bool(pairs) and all(one.shape == other.shape and relative_error(one, other) < 1e-5 for one, other in pairs)


def table_of(model: nn.Module, *inputs: Any) -> sim.Chip:
    chip = sim.compile(model, IDEAL, example_inputs=inputs)
    assert equal(chip(*inputs), model(*inputs))
    return chip


# torch's wholes: the exchange alone, over their options


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_transposed_convolutions_of_every_option(dimensions: int) -> None:
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dimensions - 1]
    for stride, padding, extra, groups, dilation, bias in itertools.product((1, 2, 3), (0, 1), (0, 1), (1, 2), (1, 2), (True, False)):
        if extra < max(stride, dilation):
            options = {"stride": stride, "padding": padding, "output_padding": extra, "groups": groups, "dilation": dilation, "bias": bias}
            layer, x = shaken(kind(4, 6, 3, **options)), draw(2, 4, *[4] * dimensions)
            assert equal(show_weights(layer)(x), layer(x)), options


def test_a_transposed_convolution_to_a_size_that_is_asked_for() -> None:
    layer = shaken(nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1))
    x, shown = draw(2, 4, 5, 7), show_weights(layer)
    for size in ([9, 13], [10, 13], [2, 6, 10, 14]):
        assert equal(shown(x, size), layer(x, size)) and shown(x, size).shape[-2:] == tuple(size[-2:])
    for one in (layer, shown):
        with pytest.raises(ValueError, match="requested an output size of"):
            one(x, [30, 30])


ATTENTION = {
    "plain": {},
    "without biases": {"bias": False},
    "other widths": {"kdim": 6, "vdim": 4},
    "learned key and value": {"add_bias_kv": True},
    "zero key": {"add_zero_attn": True},
    "all of it": {"kdim": 6, "vdim": 4, "add_bias_kv": True, "add_zero_attn": True},
}


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_of_every_option_and_mask(name: str, batch_first: bool) -> None:
    options = ATTENTION[name]
    layer = shaken(nn.MultiheadAttention(8, 2, batch_first=batch_first, **options))
    shown = show_weights(layer)
    widths = 8, options.get("kdim", 8), options.get("vdim", 8)
    q, k, v = (draw(*((3, length) if batch_first else (length, 3)), width) for length, width in zip((5, 4, 4), widths, strict=True))
    causal, padded = torch.ones(5, 4, dtype=torch.bool).triu(1), torch.tensor([[False, False, True, True]] + [[False] * 4] * 2)
    for mask, keys, weights in itertools.product((None, causal, draw(5, 4), draw(6, 5, 4)), (None, padded), (True, False)):
        given = {"attn_mask": mask, "key_padding_mask": keys, "need_weights": weights}
        assert equal(shown(q, k, v, **given), layer(q, k, v, **given)), given
    assert equal(shown(q, k, v, average_attn_weights=False), layer(q, k, v, average_attn_weights=False))


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers_of_every_option(kind: type[nn.RNNBase]) -> None:
    for layers, both, first, bias in itertools.product((1, 2), (False, True), (False, True), (True, False)):
        layer = shaken(kind(3, 4, layers, bidirectional=both, batch_first=first, bias=bias))
        shown, x = show_weights(layer), draw(*((2, 5) if first else (5, 2)), 3)
        assert equal(shown(x), layer(x))
        states = [draw(layers * (1 + both), 2, 4, seed=i) for i in (1, 2)]
        state = tuple(states) if kind is nn.LSTM else states[0]
        assert equal(shown(x, state), layer(x, state))
        packed = pack_padded_sequence(x, torch.tensor([3, 5]), batch_first=first, enforce_sorted=False) if first else None
        assert packed is None or equal(shown(packed), layer(packed))
    alone = draw(5, 3)
    assert equal(shown(alone), layer(alone))


def test_other_recurrent_layers() -> None:
    for layer in (nn.RNN(3, 4, nonlinearity="relu"), nn.LSTM(3, 4, proj_size=2, bidirectional=True)):
        assert equal(show_weights(shaken(layer))(draw(5, 2, 3)), layer(draw(5, 2, 3)))
    for cell in (nn.LSTMCell(3, 4), nn.GRUCell(3, 4), nn.RNNCell(3, 4, nonlinearity="relu")):
        assert equal(show_weights(shaken(cell))(draw(2, 3)), cell(draw(2, 3)))


# compiled, with their multiply-accumulates


def test_convolutions_of_every_padding_equal_float() -> None:
    modes, paddings = ("zeros", "reflect", "replicate", "circular"), (0, 1, (2, 0), "same", "valid")
    for mode, padding, (dilation, groups) in itertools.product(modes, paddings, ((1, 2), (2, 1))):
        layer = shaken(nn.Conv2d(4, 6, (3, 2), padding=padding, padding_mode=mode, dilation=dilation, groups=groups))
        chip = sim.compile(layer, IDEAL)
        assert equal(chip(draw(2, 4, 7, 6)), layer(draw(2, 4, 7, 6))), (mode, padding, dilation, groups)


COUNTS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...], int]] = {
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6, padding=1), (draw(2, 6, 5, 5),), 2 * 25 * 12 * 9),
    "3-D, strided and dilated": (
        # 9 -> (9 + 2 - 2 * 2 - 1) // 2 + 1 = 4 places along each axis
        lambda: nn.Conv3d(2, 4, 3, stride=2, padding=1, dilation=2, groups=2),
        (draw(1, 2, 9, 9, 9),),
        64 * 4 * 27,
    ),
    "transposed": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (draw(2, 4, 5),), 2 * 5 * 4 * 3 * 3),
    "attention with what it appends": (
        lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True, batch_first=True),
        (draw(3, 5, 8),) * 3,
        3 * (4 * 5 * 64 + 2 * 2 * 5 * (5 + 2) * 4),
    ),
    "LSTM with a projection": (lambda: nn.LSTM(6, 4, proj_size=3), (draw(5, 2, 6),), 5 * 2 * (16 * (6 + 3) + 4 * 3)),
    "GRU cell": (lambda: nn.GRUCell(6, 4), (draw(3, 6),), 3 * 12 * (6 + 4)),
    "transformer": (
        lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True, dropout=0.0),
        (draw(2, 5, 8), draw(2, 3, 8)),
        # encoder of 5; then decoder of 3 with attention to itself and to the 5
        2 * ((4 * 5 * 64 + 2 * 25 * 8 + 2 * 5 * 128) + (4 * 3 * 64 + 2 * 9 * 8) + (2 * 3 * 64 + 2 * 5 * 64 + 2 * 15 * 8) + 2 * 3 * 128),
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_multiply_accumulates_equal_a_count_by_hand(name: str) -> None:
    make, inputs, expected = COUNTS[name]
    assert table_of(shaken(make()), *inputs).macs == expected


class Functions(nn.Module):
    """Parameters that functions use, one function each."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.kernel = nn.Parameter(torch.empty(5, 4)), nn.Parameter(torch.empty(6, 2, 3))
        self.even, self.image = nn.Parameter(torch.empty(4, 2, 4)), nn.Parameter(torch.empty(4, 3, 3, 3))
        self.up = nn.Parameter(torch.empty(4, 3, 2, 2))

    def forward(self, x: Tensor, sound: Tensor, image: Tensor) -> list[Tensor]:
        deep = F.conv2d(image, self.image, padding="same")
        return [
            F.linear(x, self.matrix),
            torch.mv(self.matrix, x[0]),
            self.matrix @ x[1],
            torch.addmm(torch.ones(5), x, self.matrix.t()),
            F.conv1d(sound, self.kernel, padding="same", dilation=2),
            F.conv1d(sound, self.even, padding="same"),
            deep,
            F.conv_transpose2d(deep, self.up, torch.ones(3), stride=2),
        ]


def test_functions_of_parameters_lie_on_hardware() -> None:
    model = shaken(Functions())
    chip = table_of(model, draw(3, 4), draw(2, 2, 7), draw(1, 3, 4, 4))
    table = chip.coverage
    host = table[(table["hardware"] == "host") & (table["macs"] > 0)]
    assert len(host) == 0, host
    expected = 3 * 20 + 20 + 20 + 3 * 20 + 2 * 7 * 36 + 2 * 7 * 32 + 16 * 108 + 16 * 48
    assert chip.macs == expected == table["macs"].sum()
    assert math.prod(chip.layers["matrix"].weight.shape) == 20


class TwoStrides(nn.Module):
    """One kernel, read by convolutions of two strides: an array is mapped for one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(6, 2, 3))

    def forward(self, sound: Tensor) -> list[Tensor]:
        return [F.conv1d(sound, self.kernel, padding="same", dilation=2), F.conv1d(sound, self.kernel, padding="valid", stride=2)]


def test_a_weight_that_is_read_in_two_ways_is_read_rightly() -> None:
    table = table_of(shaken(TwoStrides()), draw(2, 2, 7)).coverage.set_index("hardware")
    assert table.loc["RRAMCrossbar", "macs"] == 2 * 7 * 36
    assert table.loc["host", "macs"] == 2 * 3 * 36
