"""Networks that users already have: each compiles, equals float on an ideal design, and has no multiply-accumulate unaccounted for."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import simulator as sim
from devices import RRAMCrossbar
from simulator.batches import Batch
from simulator.capture import capture
from simulator.metrics import pick
from tests import networks

pytestmark = pytest.mark.long
DESIGN = RRAMCrossbar.preset("wan_nature_2022")
IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(3, 20, (2, 9), generator=torch.Generator().manual_seed(1))


def transformer(name: str, size: dict[str, Any], **inputs: Tensor) -> Callable[[], tuple[nn.Module, dict[str, Tensor]]]:
    def build() -> tuple[nn.Module, dict[str, Tensor]]:
        transformers = pytest.importorskip("transformers")
        config = getattr(transformers, f"{name.split('For', maxsplit=1)[0].removesuffix('Model').removesuffix('LMHead')}Config")(**size)
        options = {"add_pooling_layer": False} if name == "BertModel" else {}
        return getattr(transformers, name)(config, **options), inputs

    return build


def own(make: Callable[[], nn.Module], *inputs: Tensor) -> Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]:
    return lambda: (make(), inputs)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {"vocab_size": 50, **SMALL}
GPT2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
PVT = {
    "image_size": 32, "num_encoder_blocks": 2, "depths": [1, 1], "sequence_reduction_ratios": [2, 1], "hidden_sizes": [8, 16],
    "patch_sizes": [4, 2], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2],
}  # fmt: skip
WHISPER = {
    "vocab_size": 60, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
VIDEO = {"image_size": 16, "patch_size": 8, "num_frames": 4, **SMALL}
CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
FRAMES = IMAGE[:, :, :16, :16].repeat(1, 4, 1, 1).unflatten(1, (4, 3))
SOUND = torch.rand(2, 8, 32, generator=torch.Generator().manual_seed(6))
SEQUENCE = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(7))
ZOO: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "BERT": transformer("BertModel", TEXT, input_ids=TOKENS),
    "GPT-2": transformer("GPT2LMHeadModel", GPT2, input_ids=TOKENS),
    "LLaMA": transformer("LlamaForCausalLM", {**TEXT, "num_key_value_heads": 1}, input_ids=TOKENS),
    "Mixtral": transformer("MixtralForCausalLM", {**TEXT, "num_key_value_heads": 1, "num_local_experts": 4}, input_ids=TOKENS),
    "ViT": transformer("ViTForImageClassification", {**SMALL, "image_size": 32, "patch_size": 8}, pixel_values=IMAGE),
    "Swin": transformer("SwinForImageClassification", SWIN, pixel_values=IMAGE),
    "ConvNeXt": transformer("ConvNextForImageClassification", CONVNEXT, pixel_values=IMAGE),
    "ResNet": transformer("ResNetForImageClassification", RESNET, pixel_values=IMAGE),
    "MobileNetV2": transformer("MobileNetV2ForImageClassification", {"depth_multiplier": 0.25, "image_size": 32}, pixel_values=IMAGE),
    "PVT": transformer("PvtForImageClassification", PVT, pixel_values=IMAGE),
    "VideoMAE": transformer("VideoMAEForVideoClassification", VIDEO, pixel_values=FRAMES),
    "Whisper": transformer("WhisperForConditionalGeneration", WHISPER, input_features=SOUND, decoder_input_ids=TOKENS[:, :4]),
    "U-Net": own(networks.UNet, IMAGE[..., :16, :16]),
    "DenseNet-like": own(networks.Dense, IMAGE[..., :8, :8]),
    "VoVNet-like": own(networks.OneShot, IMAGE[..., :8, :8]),
    "IBN-like": own(networks.InstanceBatch, IMAGE[..., :8, :8]),
    "VanillaNet-like": own(networks.vanilla, IMAGE),
    "SimpleNet-like": own(lambda: networks.plain((6, 8), 3), IMAGE[..., :8, :8]),
    "inverted residual": own(networks.Inverted, IMAGE[..., :8, :8]),
    "3-D ConvNeXt regression": own(networks.Regression3d, torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(5))),
    "parallel attention": own(networks.ParallelAttention, SEQUENCE),
    "attention experts": own(networks.AttentionExperts, SEQUENCE[..., :8]),
    "dynamic convolution": own(networks.DynamicConvolution, IMAGE[:, :2, :6, :6]),
    "tagger": own(networks.Tagger, TOKENS),
    "custom weights": own(networks.Custom, torch.rand(4, 5, generator=torch.Generator().manual_seed(3))),
    "hypernetwork": own(networks.Hyper, torch.rand(5, 4, generator=torch.Generator().manual_seed(4))),
}


BATCH_NORMS = {"ResNet": 6, "MobileNetV2": 52}
"""Networks whose batch norms all follow a convolution, and how many there are."""


def build(name: str) -> tuple[nn.Module, Batch]:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model, inputs = ZOO[name]()
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point() and float(tensor.detach().abs().sum()) in (0.0, float(tensor.numel())):
                # Biases, scales and statistics that are all zero or one would hide that one was dropped.
                tensor.data += 0.2 * torch.rand(tensor.shape)
        for parameter in model.parameters():
            if not bool(torch.isfinite(parameter).all()) or float(parameter.detach().abs().max()) > 1e3:
                nn.init.normal_(parameter, std=0.3)
    batch = Batch((), inputs) if isinstance(inputs, dict) else Batch(inputs)
    return model.eval(), batch


def call(model: nn.Module, batch: Batch) -> Tensor:
    return pick(model(*batch.inputs, **batch.keywords))


@pytest.mark.parametrize("name", ZOO)
def test_a_network_compiles_equals_float_and_accounts_for_every_mac(name: str) -> None:
    model, batch = build(name)
    chip = sim.compile(model, DESIGN.ideal(), example_inputs=batch.inputs, example_kwargs=batch.keywords)
    expected, found = call(model, batch).detach(), call(chip, batch).detach()
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4
    assert chip.macs == capture(model, batch).macs > 0
    table = chip.coverage
    assert not table["macs"].isna().any()
    # What is digital and multiplies is named with a reason.
    digital = table[(table["hardware"] == "host") & (table["macs"] > 0)]
    assert (digital["reason"].str.len() > 0).all()
    assert table.loc[table["hardware"] == "RRAMCrossbar", "macs"].sum() > 0
    assert not [warning for warning in chip.warnings if "MACs" in warning]
    # What torch.fx cannot trace loses its batch norms, too.
    norms = {path for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    if name in BATCH_NORMS:
        assert set(table.loc[table["hardware"].str.startswith("folded into"), "layer"]) == norms and len(norms) == BATCH_NORMS[name]
        assert not [module for module in chip.modules() if isinstance(module, nn.BatchNorm2d)]

    noisy = sim.compile(model, DESIGN, example_inputs=batch.inputs, example_kwargs=batch.keywords)
    other = copy.deepcopy(noisy)
    noisy.program(seed=1)
    call(noisy, batch)
    other.load_state_dict(noisy.state_dict())
    assert torch.equal(call(other, batch), call(noisy, batch))
    noisy.train()
    call(noisy, batch).float().square().sum().backward()
    read = [layer for layer in noisy.layers.values() if layer.training_reads]
    assert read
    for layer in read:
        owner = layer.view.parameter if layer.view is not None else layer.weight
        assert owner.grad is not None, layer.name
        assert bool(torch.isfinite(owner.grad).all())


MACS_BY_HAND = {
    # steps x batch x gates x hidden x (inputs + hidden), both directions
    "LSTM": (nn.LSTM(6, 4, bidirectional=True), (torch.zeros(5, 2, 6),), 2 * 5 * 2 * 16 * (6 + 4)),
    "GRU": (nn.GRU(6, 4), (torch.zeros(5, 2, 6),), 5 * 2 * 12 * (6 + 4)),
    # four projections, then queries with keys and weights with values in two heads
    "attention": (nn.MultiheadAttention(8, 2, batch_first=True), (torch.zeros(3, 5, 8),) * 3, 3 * (4 * 5 * 64 + 2 * 2 * 5 * 5 * 4)),
    "encoder": (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        (torch.zeros(3, 5, 8),),
        3 * (4 * 5 * 64 + 2 * 2 * 5 * 5 * 4 + 2 * 5 * 8 * 16),
    ),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (torch.zeros(2, 4, 5, 5),), 2 * 25 * 4 * 3 * 9),
}


@pytest.mark.parametrize("name", MACS_BY_HAND)
def test_macs_equal_a_count_by_hand(name: str) -> None:
    model, inputs, expected = MACS_BY_HAND[name]
    chip = sim.compile(model.eval(), DESIGN, example_inputs=inputs)
    assert chip.macs == expected


def test_macs_of_a_mixture_of_experts_by_hand() -> None:
    model, batch = build("Mixtral")
    tokens, hidden, wide = 18, 16, 32
    attention = tokens * hidden * (16 + 8 + 8 + 16) + 2 * 2 * 2 * 9 * 9 * 8
    # Two of four experts for each token: gate and up together, then down; and the router.
    experts = tokens * 2 * (hidden * 2 * wide + wide * hidden) + tokens * hidden * 4
    chip = sim.compile(model, DESIGN, example_kwargs=batch.keywords)
    assert chip.macs == 2 * (attention + experts) + tokens * hidden * 50
    table = chip.coverage.set_index("layer")
    routed = [name for name in table.index if ".experts." in name and name[-1].isdigit()]
    assert len(routed) == 2 * 2 * 4
    assert table.loc[routed, "macs"].sum() == 2 * tokens * 2 * (hidden * 2 * wide + wide * hidden)


def test_weights_made_at_run_time_stay_digital_and_strict_refuses_them() -> None:
    model, batch = build("hypernetwork")
    table = sim.compile(model, DESIGN, example_inputs=batch.inputs).coverage.set_index("kind")
    assert table.loc["addmm" if "addmm" in table.index else "mm", "hardware"] == "host"
    with pytest.raises(ValueError, match=r"^Argument `strict`: every multiply-accumulate must lie on hardware[^\n]*run time[^\n]*$"):
        sim.compile(model, DESIGN, example_inputs=batch.inputs, strict=True)


def test_tied_weights_stay_one_parameter() -> None:
    model, batch = build("GPT-2")
    chip = sim.compile(model, DESIGN.ideal(), example_kwargs=batch.keywords)
    embedding = chip.model.transformer.wte.weight
    assert chip.layers["lm_head"].weight is embedding
    assert sum(p.numel() for p in chip.parameters()) == sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        embedding.mul_(2.0)
        model.transformer.wte.weight.mul_(2.0)
    chip.program(seed=0)
    assert torch.allclose(call(chip, batch), call(model, batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("apply", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_a_parametrized_layer_maps_with_the_weight_that_it_has(apply: Callable[[nn.Module], nn.Module]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(apply(nn.Linear(6, 5)), nn.ReLU(), apply(nn.Linear(5, 2))).eval()
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    chip = sim.compile(model, DESIGN.ideal(), example_inputs=x)
    assert len(chip.layers) == 2
    assert torch.allclose(chip(x), model(x), atol=1e-6)
    assert "computed weight" in chip.coverage["reason"].iloc[0]


def test_the_reference_inside_a_chip_keeps_the_batch_free() -> None:
    model, batch = build("BERT")
    chip = sim.compile(model, DESIGN.ideal(), example_kwargs=batch.keywords)
    other = {"input_ids": TOKENS[:1, :4]}
    assert torch.allclose(pick(chip(**other)), pick(model(**other)), atol=1e-5)
