"""Activation checkpointing computes layers a second time for their gradients: with the noise of the first."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import simulator as sim
from devices import RRAMCrossbar, SRAMMacro
from tests.test_own_macro import OwnMacro

DESIGNS = {
    "crossbar": RRAMCrossbar.preset("wan_nature_2022"),
    "macro": SRAMMacro.preset("asscc_2023"),
    "own macro": OwnMacro(rows=8, columns=8, input_bits=8, weight_bits=6, gain_sigma=0.1, noise=1.0),
}
X = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))


class Blocks(nn.Module):
    """A layer of its own at both ends, and one in between that is read twice within one checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.twice, self.last = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.reentrant: bool | None = None

    def middle(self, x: Tensor) -> Tensor:
        return torch.relu(self.twice(torch.relu(self.twice(x)) + x))

    def forward(self, x: Tensor) -> Tensor:
        parts = [lambda x: torch.relu(self.first(x)), self.middle, self.last]
        for part in parts:
            x = part(x) if self.reentrant is None else checkpoint(part, x, use_reentrant=self.reentrant)
        return x


def gradients(chip: sim.Chip, reentrant: bool | None, steps: int = 2) -> tuple[list[Tensor], list[Tensor]]:
    """Return the outputs of some forward passes and the sums of their gradients, of a fresh copy of a chip."""
    own = copy.deepcopy(chip).train()
    own.model.reentrant = reentrant
    outputs = []
    for _ in range(steps):
        outputs.append(own(X.clone().requires_grad_()))
        outputs[-1].square().sum().backward()
    return [one.detach() for one in outputs], [one.grad for one in own.parameters()]


@pytest.mark.parametrize("name", DESIGNS)
def test_gradients_under_checkpointing_are_those_without(name: str) -> None:
    chip = sim.compile(Blocks().eval(), DESIGNS[name], example_inputs=X)
    plain_outputs, plain = gradients(chip, None)
    assert name == "macro" or not torch.equal(*plain_outputs)  # each pass has its own noise, where reads have any
    for reentrant in (True, False):
        outputs, found = gradients(chip, reentrant)
        assert all(torch.equal(one, other) for one, other in zip(outputs, plain_outputs, strict=True))
        for one, other in zip(found, plain, strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


def test_recomputing_does_not_advance_the_counter_of_reads() -> None:
    chip = sim.compile(Blocks().eval(), DESIGNS["crossbar"], example_inputs=X).train()
    chip.model.reentrant = False
    chip(X.clone().requires_grad_()).sum().backward()
    assert {name: layer.training_reads for name, layer in chip.layers.items()} == {"first": 1, "twice": 2, "last": 1}
