"""Mixtures of experts: each expert has arrays of its own, and the tables say how many tokens each of them saw."""

import torch
from torch import nn

import simulator as sim
from devices import RRAMCrossbar
from tests.networks import AttentionExperts, ParallelAttention
from tests.test_zoo import SEQUENCE, build

DESIGN = RRAMCrossbar.preset("wan_nature_2022")


def test_tokens_of_each_expert_are_those_that_the_router_sends() -> None:
    model, batch = build("Mixtral")
    chip = sim.compile(model, DESIGN, example_kwargs=batch.keywords)
    seen: list[torch.Tensor] = []
    gates = [module for name, module in model.named_modules() if name.endswith("mlp.gate")]
    hooks = [gate.register_forward_hook(lambda module, arguments, outputs: seen.append(arguments[0].detach())) for gate in gates]
    with torch.no_grad():
        model(**batch.keywords)
    for hook in hooks:
        hook.remove()
    table = chip.coverage.set_index("layer")
    assert len(gates) == 2
    for index, (gate, tokens) in enumerate(zip(gates, seen, strict=True)):
        chosen = (tokens.reshape(-1, tokens.shape[-1]) @ gate.weight.t()).softmax(-1).topk(2).indices
        expected = torch.bincount(chosen.flatten(), minlength=4).tolist()
        names = [f"model.layers.{index}.mlp.experts.{part}.{expert}" for part in ("gate_up_proj", "down_proj") for expert in range(4)]
        assert table.loc[names, "vectors"].tolist() == expected * 2
        assert sum(expected) == 2 * 18


def test_experts_of_attention_share_the_tokens() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AttentionExperts().eval()
    x = SEQUENCE[..., :8]
    chip = sim.compile(model, DESIGN, example_inputs=(x,))
    expected = torch.bincount(model.router(x).argmax(-1).flatten(), minlength=3)
    table = chip.coverage.set_index("layer")
    assert table.loc[[f"queries.{i}" for i in range(3)], "vectors"].tolist() == expected.tolist()
    assert table.loc["keys", "vectors"] == 10
    # Routed query and output, router, shared keys and values, and attention over five tokens in two sequences.
    assert chip.macs == 10 * (2 * 64 + 24 + 2 * 64) + 2 * 2 * 5 * 5 * 8
    # Another call routes otherwise: an expert that sees nothing says so in the cost.
    alone = x[:1, :1]
    frame = chip.cost(alone)
    quiet = {f"queries.{i}" for i in range(3)} - {f"queries.{int(model.router(alone).argmax())}"}
    assert set(frame.loc[frame["term"] == "not called", "layer"]) >= quiet
    assert frame.loc[frame["term"] == "not called", "energy_j"].isna().all()


def test_parallel_attention_by_hand() -> None:
    model = ParallelAttention().eval()
    chip = sim.compile(model, DESIGN, example_inputs=(SEQUENCE,))
    table = chip.coverage.set_index("layer")
    assert table.loc["fused", "macs"] == 10 * 16 * 80
    attention = chip.coverage.set_index("kind").loc["scaled_dot_product_attention"]
    assert attention["macs"] == 2 * 2 * 2 * 5 * 5 * 8
    assert chip.macs == 10 * 16 * (80 + 16 + 32) + 2 * 2 * 2 * 5 * 5 * 8
    assert set(chip.layers) == {"fused", "attended", "fed"}


def test_an_expert_that_is_never_called_is_there_with_nothing_seen() -> None:
    class Never(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x) if x.sum() > -1e9 else self.idle(x)

    chip = sim.compile(Never(), DESIGN, example_inputs=torch.rand(3, 4))
    assert chip.coverage.set_index("layer")["vectors"].to_dict()["idle"] == 0
    assert any("`idle` lies on hardware but was never called" in warning for warning in chip.warnings)
