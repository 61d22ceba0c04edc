"""Second derivatives: the rules against explicit Jacobians and exact Hessians, the draws against what they estimate."""

import math

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import simulator as sim
from devices import RRAMCrossbar
from simulator.data import digits
from simulator.models import digits_mlp


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        for module_ in module.modules():
            if isinstance(module_, nn.BatchNorm2d):
                module_.running_mean.copy_(torch.randn(module_.num_features, generator=generator))
                module_.running_var.copy_(0.5 + torch.rand(module_.num_features, generator=generator))
    return module.eval()


def normals(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hessian_diagonals(model: nn.Module, x: Tensor, y: Tensor, loss) -> dict[str, Tensor]:
    """Exact, one parameter at a time, in float64."""
    named = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    found = {}
    for name, parameter in named.items():

        def value(flat: Tensor, name: str = name, shape: torch.Size = parameter.shape) -> Tensor:
            return loss(torch.func.functional_call(model, {**named, name: flat.reshape(shape)}, (x.double(),)), y)

        found[name] = torch.func.hessian(value)(parameter.flatten()).diagonal().reshape(parameter.shape)
    return found


def squared_jacobians(layers: nn.Sequential, x: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Return S of every parameter by the rule S_x = S_z (dz/dx)^2 with each layer's whole Jacobian: one sample at a time."""
    found = {name: torch.zeros_like(parameter) for name, parameter in layers.named_parameters()}
    for sample, wanted in zip(x, second, strict=True):
        inputs = [sample.unsqueeze(0)]
        for layer in layers:
            inputs.append(layer(inputs[-1]).detach())
        s = wanted.unsqueeze(0)
        for place in reversed(range(len(layers))):
            layer = layers[place]
            for name, parameter in layer.named_parameters():

                def of_parameter(value: Tensor, layer=layer, name=name, given=inputs[place]) -> Tensor:
                    return torch.func.functional_call(layer, {name: value}, (given,))

                jacobian = torch.func.jacrev(of_parameter)(parameter.detach())
                found[f"{place}.{name}"] += torch.tensordot(s, jacobian.square(), dims=s.dim())
            jacobian = torch.func.jacrev(layer)(inputs[place])
            s = torch.tensordot(s, jacobian.square(), dims=s.dim())
    return found


LOSSES = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss, "binary_cross_entropy": F.binary_cross_entropy_with_logits}


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_the_rules_are_exact_for_the_last_linear_layer(loss: str) -> None:
    model = seeded(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4)))
    x = normals(24, 5)
    y = torch.arange(24) % 4 if loss == "cross_entropy" else torch.sigmoid(normals(24, 4, seed=2)).double()
    exact = hessian_diagonals(model, x, y, LOSSES[loss])
    found = sim.second_derivative(model, (x, y.float() if loss != "cross_entropy" else y), loss)
    for name in ("2.weight", "2.bias"):
        torch.testing.assert_close(found[name].double(), exact[name], rtol=1e-4, atol=1e-6)
    assert {name: tuple(value.shape) for name, value in found.items()} == {n: tuple(p.shape) for n, p in model.named_parameters()}


def test_the_rules_are_the_squared_jacobians_of_every_layer() -> None:
    model = seeded(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1, groups=2),
            nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Conv2d(6, 6, 1, bias=False), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(6, 5), nn.ReLU6(), nn.Linear(5, 3),
        )
    )  # fmt: skip
    x = normals(3, 2, 16, 16)[:, :, :16, :16]
    model[7] = nn.AdaptiveAvgPool2d(1)
    probability = torch.softmax(model(x).detach(), 1)
    expected = squared_jacobians(model, x, probability * (1 - probability) / 3)
    found = sim.second_derivative(model, (x, torch.zeros(3, dtype=torch.long)))
    assert set(found.report["method"]) == {"second_derivative"}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)


class Joined(nn.Module):
    """A fork, a join, a difference, scales and a mean, all through functions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.stem(x))
        joined = y + 2.0 * self.left(y) - self.right(y) / 4
        return torch.stack((joined[:, :2].mean(1), joined.sum(1)), 1)


def test_branches_add_at_a_fork_and_pass_through_a_join() -> None:
    model = seeded(Joined())
    x = normals(1, 3)
    found = sim.second_derivative(model, (x, torch.zeros(1, 2)), "mse")
    with torch.no_grad():
        y = torch.relu(model.stem(x))[0]
        s_joined = torch.full((4,), 1.0)  # 2 / (1 x 2) through the sum
        s_joined[:2] += 0.25
        s_left, s_right = 4 * s_joined, s_joined / 16
        s_y = s_joined + model.left.weight.square().t() @ s_left + model.right.weight.square().t() @ s_right
        s_stem = s_y * (y > 0)
    torch.testing.assert_close(found["left.weight"], torch.outer(s_left, y.square()))
    torch.testing.assert_close(found["right.bias"], s_right)
    torch.testing.assert_close(found["stem.weight"], torch.outer(s_stem, x[0].square()))


def test_batches_add_up_to_the_mean_over_all_samples() -> None:
    model = seeded(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4)))
    x, y = normals(23, 5), torch.arange(23) % 4
    whole = sim.second_derivative(model, (x, y))
    parts = sim.second_derivative(model, [(x[:4], y[:4]), (x[4:], y[4:])])
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name])


def drawn(model: nn.Module, data: tuple[Tensor, Tensor], method: str, repeats: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and standard error over seeds."""
    runs = [sim.second_derivative(model, data, method=method, seed=seed) for seed in range(repeats)]
    stacks = {name: torch.stack([run[name] for run in runs]) for name in runs[0]}
    return {name: (stack.mean(0), stack.std(0) / math.sqrt(repeats)) for name, stack in stacks.items()}


def test_fisher_is_unbiased_for_the_hessian_of_a_rectified_network() -> None:
    model = seeded(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    x, y = normals(12, 4), torch.arange(12) % 3
    exact = hessian_diagonals(model, x, y, F.cross_entropy)
    for name, (mean, error) in drawn(model, (x, y), "fisher", 100).items():
        assert float(((mean - exact[name]).abs() / (error + 1e-6)).max()) < 5


def test_hutchinson_is_unbiased_for_any_network() -> None:
    model = seeded(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3)))
    x, y = normals(12, 4), torch.arange(12) % 3
    exact = hessian_diagonals(model, x, y, F.cross_entropy)
    for name, (mean, error) in drawn(model, (x, y), "hutchinson", 150).items():
        assert float(((mean - exact[name]).abs() / (error + 1e-6)).max()) < 5


def test_sample_by_sample_and_vectorized_fisher_agree() -> None:
    model = seeded(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))

    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if float(x.sum()) > -1e9 else x  # looks at its numbers: cannot be vectorized over samples

    x, y = normals(9, 4), torch.arange(9) % 3
    one, other = sim.second_derivative(model, (x, y), method="fisher"), sim.second_derivative(Looks(), (x, y), method="fisher")
    for name in one:
        torch.testing.assert_close(one[name], other[f"inner.{name}"])


@pytest.mark.parametrize("fallback", ["fisher", "hutchinson"])
def test_what_lies_before_an_operation_without_a_rule_falls_back_and_is_reported(fallback: str) -> None:
    model = seeded(nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)))
    x, y = normals(12, 4), torch.arange(12) % 3
    found = sim.second_derivative(model, (x, y), fallback=fallback)
    rows = found.report.set_index("parameter")
    assert rows.loc["0.weight", "method"] == fallback and "gelu" in rows.loc["0.weight", "reason"]
    assert rows.loc["2.weight", "method"] == rows.loc["4.weight", "method"] == "second_derivative"
    if fallback == "fisher":
        torch.testing.assert_close(found["0.weight"], sim.second_derivative(model, (x, y), method=fallback)["0.weight"])
    assert not any(bool(torch.isnan(value).any()) for value in found.values())


def test_attention_and_recurrent_networks_fall_back() -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.attention, self.head = (
                nn.GRU(3, 4, batch_first=True),
                nn.MultiheadAttention(4, 2, batch_first=True),
                nn.Linear(4, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            h, _ = self.rnn(x)
            return self.head(self.attention(h, h, h, need_weights=False)[0][:, -1])

    data = normals(6, 5, 3), torch.arange(6) % 2
    for fallback in ("fisher", "hutchinson"):
        found = sim.second_derivative(seeded(Sequence()), data, fallback=fallback)
        methods = found.report.set_index("parameter")["method"]
        assert methods["head.weight"] == "second_derivative"
        assert methods["rnn.weight_ih_l0"] == methods["attention.in_proj_weight"] == fallback
        assert all(bool(torch.isfinite(value).all()) for value in found.values())
        assert float(found["rnn.weight_hh_l0"].abs().max()) > 0


def test_the_rules_rank_a_trained_network_as_its_hessian_does() -> None:
    model, split = digits_mlp(seed=0, hidden=32), digits()
    sim.fit(model, split.train_batches(), epochs=12)
    x, y = split.train.tensors[0][:400], split.train.tensors[1][:400]
    rules = sim.second_derivative(model, (x, y))
    unbiased = sim.second_derivative(model, (x, y), method="fisher", draws=12)
    name = "features.3.weight"
    assert scipy.stats.spearmanr(rules[name].flatten(), unbiased[name].flatten()).statistic > 0.7


def test_the_model_is_left_as_it_was() -> None:
    model = seeded(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))).train()
    model[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sim.second_derivative(model, (normals(5, 4), torch.zeros(5, dtype=torch.long)))
    assert model.training and not model[0].weight.requires_grad and model[2].weight.grad is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_chip_has_the_second_derivatives_of_its_masters() -> None:
    model = seeded(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    data = normals(12, 4), torch.arange(12) % 3
    chip = sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_inputs=data[0])
    on_chip, plain = sim.second_derivative(chip, data), sim.second_derivative(model, data)
    for (_, value), expected in zip(sorted(on_chip.items()), [plain[name] for name in sorted(plain)], strict=True):
        if value.shape == expected.shape:
            torch.testing.assert_close(value, expected)
    assert len(on_chip) == len(plain)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"loss": "hinge"}, "`loss` must be one of"),
        ({"method": "kfac"}, "`method` must be one of"),
        ({"fallback": "second_derivative"}, "`fallback` must be one of"),
        ({"draws": 0}, "`draws` must be an integer of at least 1"),
        ({"loader": []}, "`loader` must hold at least one batch"),
        ({"model": nn.ReLU()}, "must have parameters"),
        ({"model": "digits"}, "`model` must be a network or a chip"),
        ({"loader": (torch.full((3, 2), math.nan), torch.zeros(3, dtype=torch.long))}, "must lead to finite second derivatives"),
    ],
)
def test_bad_arguments_are_refused_in_a_line(change: dict, line: str) -> None:
    arguments = {"model": nn.Linear(2, 2), "loader": (torch.rand(3, 2), torch.zeros(3, dtype=torch.long)), **change}
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        sim.second_derivative(**arguments)
    assert line in str(error.value)
