"""Gradients that may be taken once: right the first time, and refused the second time by every way there is."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import simulator as sim
from devices import RRAMCrossbar, SRAMMacro, SystolicArray, TransmonBackend
from kernels.once import once_differentiable
from simulator.quantum import PulseCircuit


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[no-untyped-def,override]
        ctx.save_for_backward(x)
        return x**3 * 1.0 + 0.0 * y

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def,override]
        (x,) = ctx.saved_tensors
        assert not torch.is_grad_enabled()
        return 3 * x**2 * upstream, None


def test_the_first_gradient_is_right_whether_it_is_to_be_differentiated_or_not() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    for again in (False, True):
        (found,) = torch.autograd.grad(Cube.apply(x, x.detach()).sum(), x, create_graph=again)
        assert found.tolist() == [3.0, 12.0] and found.requires_grad == again
    # It may be used in what is differentiated by something else.
    other = torch.tensor(2.0, requires_grad=True)
    assert torch.autograd.grad((found * other).sum(), other)[0] == 15.0


@pytest.mark.parametrize("outer", [lambda y: y, lambda y: y**2], ids=["of a linear function", "of a square"])
def test_the_second_is_refused_by_every_way(outer: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)

    def gradient() -> Tensor:
        found: Tensor = torch.autograd.grad(outer(Cube.apply(x, x.detach())).sum(), x, create_graph=True)[0]
        return found

    for differentiate in (
        lambda: torch.autograd.grad(gradient().sum(), x),
        lambda: gradient().sum().backward(),
        lambda: torch.autograd.functional.hessian(lambda z: outer(Cube.apply(z, z.detach())).sum(), x),
        lambda: torch.autograd.gradgradcheck(lambda z: outer(Cube.apply(z, z.detach())), x.detach().double().requires_grad_()),
    ):
        with pytest.raises(RuntimeError, match="the gradient of Cube must not be differentiated again"):
            differentiate()


@pytest.mark.parametrize(
    "design", [RRAMCrossbar.preset("wan_nature_2022"), SRAMMacro.preset("demonstrator"), SystolicArray.preset("eyeriss_like")], ids=str
)
def test_second_derivatives_of_a_chip_are_refused(design: RRAMCrossbar | SRAMMacro | SystolicArray) -> None:
    x = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    chip = sim.compile(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), design, calibration=[x.detach()]).program(seed=0)
    (found,) = torch.autograd.grad(chip(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="must not be differentiated again"):
        torch.autograd.grad(found.square().sum(), x)


def test_second_derivatives_of_pulses_are_refused() -> None:
    layer = PulseCircuit(TransmonBackend.preset("jakarta_like"), inputs=1, layers=1)
    weight = layer.weight.detach().double().requires_grad_()
    found = layer.probabilities(torch.ones(1, 1, dtype=torch.float64), weight)
    (gradient,) = torch.autograd.grad(found[0, 0], weight, create_graph=True)
    with pytest.raises(RuntimeError, match="the gradient of Evolve must not be differentiated again"):
        torch.autograd.grad(gradient.sum(), weight)
