"""Patch-by-patch inference: the same result, on less memory."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import simulator as sim
from devices import SystolicArray
from tests.test_crossbar_layer import generator, random_layer
from tests.test_memory import mobilenet_v2


class Largest(TorchDispatchMode):
    """Notes the largest tensor that a call makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and func.overloadpacket.__name__ == "convolution":
            self.elements = max(self.elements, result.numel())
        return result


@settings(max_examples=25, deadline=None)
@given(
    kernels=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2)), min_size=1, max_size=4),
    size=st.tuples(st.integers(16, 28), st.integers(16, 28)),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pool=st.sampled_from(["max", "average", "none"]),
)
def test_patches_of_any_convolutions_give_the_whole(kernels, size, grid, pool) -> None:
    layers: list[nn.Module] = []
    for kernel, stride, padding, dilation in kernels:
        layers += [nn.Conv2d(3, 3, kernel, stride, min(padding, kernel // 2 + 1), dilation), nn.ReLU()]
    layers.append({"max": nn.MaxPool2d(3, 2, 1), "average": nn.AvgPool2d(3, 2, 1), "none": nn.Identity()}[pool])
    model = random_layer(nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(2), nn.Flatten())).eval()
    x = torch.randn(2, 3, *size, generator=generator(0))
    try:
        whole = model[0](x)
    except RuntimeError:
        return  # the kernels are larger than what is left of the image
    if whole.shape[2] < grid[0] or whole.shape[3] < grid[1]:
        return
    patched = sim.patch_by_patch(model, x, (grid, "0"))
    assert torch.allclose(patched(x), model(x), atol=1e-5)
    assert torch.allclose(patched(x[:1]), model(x[:1]), atol=1e-5)


def test_mobilenet_v2_in_patches_is_mobilenet_v2() -> None:
    torch_model = mobilenet_v2().eval()
    x = torch.randn(1, 3, 96, 96, generator=generator(1))
    patched = sim.patch_by_patch(torch_model, x, (4, "0.4"))
    with torch.no_grad():
        with Largest() as whole:
            expected = torch_model(x)
        with Largest() as parts:
            found = patched(x)
    assert torch.allclose(found, expected, atol=1e-5)
    assert parts.elements < whole.elements / 4
    assert patched.state_dict().keys() == {f"model.{name}" for name in torch_model.state_dict()}


def test_patches_compile_onto_hardware_and_recompute_what_memory_says() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 4)
    )
    random_layer(model).eval()
    x = torch.rand(2, 3, 16, 16, generator=generator(2))
    patched = sim.patch_by_patch(model, x, (2, "4"))
    array = SystolicArray(rows=16, columns=16, input_bits=None, weight_bits=None)
    chip, whole = sim.compile(patched, array, example_inputs=x), sim.compile(model, array, example_inputs=x)
    assert torch.allclose(chip(x), whole(x), atol=1e-5)
    memory = sim.peak_activation_memory(model, x, patches=(2, "4"))
    rows = chip.cost(x)
    macs = int(rows.loc[rows["term"] == "multiply-accumulate", "macs"].sum())
    # A layer pads its own part, so at the borders between patches a row or column more is computed than is needed.
    assert memory.macs <= macs <= 1.5 * memory.macs and memory.macs > memory.macs_whole


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.narrow = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 5, padding=2), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return self.narrow(torch.cat((x + y, self.second(y)), 1)).flatten(1)


def test_shortcuts_and_joins_and_gradients() -> None:
    model, x = random_layer(Residual()).eval(), torch.randn(3, 4, 12, 12, generator=generator(4))
    patched = sim.patch_by_patch(model, x, (3, "narrow"))
    assert torch.allclose(patched(x), model(x), atol=1e-5)
    assert torch.allclose(copy.deepcopy(patched)(x), model(x), atol=1e-5)
    patched(x).square().sum().backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model(x).square().sum().backward()
    assert all(torch.allclose(a, parameter.grad, rtol=1e-4, atol=1e-4) for a, parameter in zip(found, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("patches", "line"),
    [
        ((2, "nowhere"), "must name a module of the model"),
        ((2, "first"), "must need nothing of the stage but its output, but needs `x`"),
        ((50, "narrow"), "must cut 12 x 12 positions"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_a_line(patches: tuple[int, str], line: str) -> None:
    with pytest.raises(ValueError, match=r"^Argument `patches`[^\n]*$") as error:
        sim.patch_by_patch(Residual(), torch.zeros(1, 4, 12, 12), patches)
    assert line in str(error.value)


def test_a_step_that_sees_everything_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.GroupNorm(1, 2), nn.Flatten())
    with pytest.raises(ValueError, match="GroupNorm `1` must look at a window"):
        sim.patch_by_patch(model, torch.zeros(1, 1, 8, 8), (2, "1"))
    with pytest.raises(ValueError, match="whose output is an image"):
        sim.patch_by_patch(model, torch.zeros(1, 1, 8, 8), (2, "2"))
    patched = sim.patch_by_patch(model, torch.zeros(1, 1, 8, 8), (2, "0"))
    with pytest.raises(ValueError, match="must be called with images of 8 x 8"):
        patched(torch.zeros(1, 1, 9, 9))
