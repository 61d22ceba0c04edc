"""Metrics against scikit-learn, torchmetrics and closed forms; rows that stream; broken outputs."""

import dataclasses
import itertools
import math
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import sklearn.metrics as reference
import torch
import torchmetrics.functional as published
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.segmentation import mean_iou
from torchmetrics.functional.text import perplexity

from simulator.metrics import IGNORED, Metric, metric, pick

NAMES = ("accuracy", "mae", "pearson", "auc", "f1", "dice", "miou", "perplexity")
CLASSES = 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def case(name: str, samples: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs that know something of the targets."""
    draw = generator(seed)
    if name in ("mae", "pearson"):
        targets = torch.randn(samples, 3, generator=draw)
        return targets + torch.randn(samples, 3, generator=draw), targets
    shape = {"dice": (samples, 5, 6), "miou": (samples, 5, 6), "perplexity": (samples, 7)}.get(name, (samples,))
    targets = torch.randint(0, CLASSES, shape, generator=draw)
    scores = torch.nn.functional.one_hot(targets, CLASSES) + torch.randn(*shape, CLASSES, generator=draw)
    return (scores if name == "perplexity" else scores.movedim(-1, 1)), targets


def naive(name: str, outputs: Tensor, targets: Tensor) -> float:
    """Value by packages that share no code with ours."""
    if name == "mae":
        return reference.mean_absolute_error(targets.double().numpy(), outputs.double().numpy())
    if name == "pearson":
        return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(outputs.double().T, targets.double().T, strict=True)]))
    if name == "auc":
        return reference.roc_auc_score(targets.numpy(), outputs.double().softmax(1).numpy(), multi_class="ovr", average="macro")
    if name == "perplexity":
        return float(perplexity(outputs.double(), targets, ignore_index=IGNORED))
    predicted, true = outputs.argmax(1).flatten().numpy(), targets.flatten().numpy()
    scores = {
        "accuracy": reference.accuracy_score,
        "f1": lambda t, p: reference.f1_score(t, p, average="macro"),
        "dice": lambda t, p: reference.f1_score(t, p, average="macro"),
        "miou": lambda t, p: reference.jaccard_score(t, p, average="macro"),
    }
    return float(scores[name](true, predicted))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_equals_other_packages(name: str, seed: int) -> None:
    outputs, targets = case(name, seed=seed)
    value = metric(name)(outputs, targets)
    assert 0 < value != 1
    assert value == pytest.approx(naive(name, outputs, targets), rel=1e-6)


def test_equals_torchmetrics() -> None:
    outputs, targets = case("auc", 500)
    expected = published.auroc(outputs, targets, "multiclass", num_classes=CLASSES)
    assert metric("auc")(outputs, targets) == pytest.approx(float(expected), abs=1e-6)
    expected = published.f1_score(outputs, targets, "multiclass", num_classes=CLASSES, average="macro")
    assert metric("f1")(outputs, targets) == pytest.approx(float(expected), abs=1e-6)
    outputs, targets = case("pearson", 500)
    assert metric("pearson")(outputs, targets) == pytest.approx(float(published.pearson_corrcoef(outputs, targets).mean()), abs=1e-6)
    outputs, targets = case("miou", 500)
    image = mean_iou(outputs.argmax(1).flatten()[None], targets.flatten()[None], num_classes=CLASSES, input_format="index")
    assert metric("miou")(outputs, targets) == pytest.approx(float(image), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 39), max_size=4, unique=True), order=st.randoms(use_true_random=False))
def test_value_depends_neither_on_batches_nor_on_order(name: str, cuts: list[int], order) -> None:
    outputs, targets = case(name, 40)
    measure = metric(name)
    whole = measure(outputs, targets)
    shuffled = list(range(40))
    order.shuffle(shuffled)
    outputs, targets = outputs[shuffled], targets[shuffled]
    edges = [0, *sorted(cuts), 40]
    parts = [measure.rows(outputs[a:b], targets[a:b]) for a, b in itertools.pairwise(edges)]
    assert measure.compute(measure.join(parts)) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_small_and_resample_like_samples(name: str) -> None:
    outputs, targets = case(name)
    measure = metric(name)
    rows = measure.rows(outputs, targets)
    assert rows.dtype == torch.float64
    assert rows.shape == (60, {"accuracy": 2, "mae": 2, "pearson": 6, "auc": 5, "f1": 3, "dice": 12, "miou": 12, "perplexity": 2}[name])
    drawn = torch.randint(0, 60, (60,), generator=generator(9))
    assert measure.compute(rows[drawn]) == pytest.approx(naive(name, outputs[drawn], targets[drawn]), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(name: str, dtype: torch.dtype) -> None:
    outputs, targets = case(name)
    outputs = outputs.to(dtype)
    assert metric(name)(outputs, targets) == pytest.approx(naive(name, outputs.double(), targets), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_nan_gives_nan_and_zero_samples_too(name: str) -> None:
    outputs, targets = case(name)
    measure = metric(name)
    broken = outputs.clone()
    broken[(17,) + (0,) * (broken.ndim - 1)] = math.nan
    assert math.isnan(measure(broken, targets))
    assert math.isnan(measure(torch.full_like(outputs, math.nan), targets))
    assert math.isnan(measure(outputs[:0], targets[:0]))
    healthy = measure.rows(broken, targets)[torch.arange(60) != 17]
    assert not math.isnan(measure.compute(healthy))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("mae", "pearson")])
def test_ignored_targets(name: str) -> None:
    outputs, targets = case(name)
    measure = metric(name)
    expected = measure(outputs[:30], targets[:30])
    targets[30:] = IGNORED
    outputs[30:] = math.nan
    assert measure(outputs, targets) == pytest.approx(expected, rel=1e-12)
    assert math.isnan(measure(outputs[30:], targets[30:]))


@pytest.mark.parametrize("name", ["accuracy", "dice", "miou", "perplexity"])
def test_ignored_positions(name: str) -> None:
    outputs, targets = case("perplexity" if name == "perplexity" else "dice")
    mask = torch.rand(targets.shape, generator=generator(4)) < 0.3
    ignored = targets.masked_fill(mask, IGNORED)
    kept_outputs = (outputs if name == "perplexity" else outputs.movedim(1, -1))[~mask]
    kept = (kept_outputs[None] if name == "perplexity" else kept_outputs, targets[~mask][None] if name == "perplexity" else targets[~mask])
    assert metric(name)(outputs, ignored) == pytest.approx(naive(name, *kept), rel=1e-6)


class TestBinary:
    logits = torch.tensor([2.0, -1.0, 0.5, -3.0, 0.1, 0.2])
    targets = torch.tensor([1, 0, 0, 0, 1, 1])

    @pytest.mark.parametrize("shape", [(6,), (6, 1)])
    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
    def test_single_logit(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        outputs = self.logits.reshape(shape)
        f1 = reference.f1_score(self.targets, self.logits > 0)
        for targets in (self.targets.to(dtype), self.targets.to(dtype).reshape(shape)):
            assert metric("accuracy")(outputs, targets) == pytest.approx(5 / 6)
            assert metric("auc")(outputs, targets) == pytest.approx(reference.roc_auc_score(self.targets, self.logits))
            assert metric("f1")(outputs, targets) == pytest.approx(f1)
            assert metric("dice")(outputs, targets) == pytest.approx(f1)

    def test_two_logits_are_the_same_ranking(self) -> None:
        pair = torch.stack([-self.logits / 2, self.logits / 2], 1)
        assert metric("auc")(pair, self.targets) == pytest.approx(metric("auc")(self.logits, self.targets))

    def test_foreground_mask(self) -> None:
        outputs = torch.randn(4, 1, 8, 8, generator=generator())
        targets = torch.rand(4, 8, 8, generator=generator(1)) < 0.2
        truth, guess = targets.flatten(), (outputs > 0).flatten()
        assert metric("dice")(outputs, targets) == pytest.approx(reference.f1_score(truth, guess))
        assert metric("miou")(outputs, targets[:, None]) == pytest.approx(reference.jaccard_score(truth, guess))
        assert math.isnan(metric("dice")(-torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2)))


class TestClosedForms:
    def test_perplexity_of_uniform_logits_is_the_vocabulary(self) -> None:
        assert metric("perplexity")(torch.zeros(3, 5, 17), torch.ones(3, 5, dtype=torch.int64)) == pytest.approx(17, rel=1e-6)

    def test_perplexity_weights_tokens_not_sequences(self) -> None:
        outputs = torch.stack([torch.tensor([[0.5, 0.5]] * 3).log(), torch.tensor([[0.125, 0.875]] * 3).log()])
        targets = torch.tensor([[0, 0, 0], [0, IGNORED, IGNORED]])
        assert metric("perplexity")(outputs, targets) == pytest.approx((2**3 * 8) ** (1 / 4), rel=1e-6)

    def test_impossible_token_is_infinite_not_an_overflow(self) -> None:
        assert metric("perplexity")(torch.tensor([[[0.0, -1e6]]]), torch.tensor([[1]])) == math.inf

    def test_classes_in_neither_are_left_out_and_false_alarms_count_as_zero(self) -> None:
        scores = torch.eye(5)[torch.tensor([0, 0, 1, 2])]
        targets = torch.tensor([0, 0, 1, 1])
        assert metric("f1")(scores, targets) == pytest.approx((1 + 2 / 3 + 0) / 3)
        assert metric("dice")(scores, targets) == pytest.approx((1 + 2 / 3 + 0) / 3)
        assert metric("miou")(scores, targets) == pytest.approx((1 + 1 / 2 + 0) / 3)

    def test_auc_leaves_out_absent_classes(self) -> None:
        outputs, targets = case("auc", 200)
        kept = targets != 3
        wide = metric("auc")(outputs[kept], targets[kept])
        odds = outputs[kept].softmax(1)[:, :3].numpy()
        expected = np.mean([reference.roc_auc_score(targets[kept] == c, odds[:, c]) for c in range(3)])
        assert wide == pytest.approx(expected, rel=1e-6)
        assert math.isnan(metric("auc")(outputs, torch.zeros_like(targets)))

    def test_auc_of_confident_logits_does_not_saturate(self) -> None:
        # Softmax rounds all of these to 1 or 0; the order of the log odds is perfect.
        margin = torch.tensor([50.0, 60.0, 70.0, 80.0, 900.0, 1000.0])
        outputs = torch.stack([torch.zeros(6), margin], 1)
        assert metric("auc")(outputs, torch.tensor([0, 0, 0, 1, 1, 1])) == 1.0

    def test_auc_takes_probabilities_as_they_are(self) -> None:
        outputs, targets = case("auc", 300, seed=5)
        probabilities = (3 * outputs.double()).softmax(1)
        expected = reference.roc_auc_score(targets, probabilities.numpy(), multi_class="ovr")
        assert expected != pytest.approx(reference.roc_auc_score(targets, probabilities.softmax(1).numpy(), multi_class="ovr"), abs=1e-6)
        assert metric("auc")(probabilities, targets) == pytest.approx(expected, abs=1e-6)

    def test_auc_of_ties_is_one_half(self) -> None:
        assert metric("auc")(torch.zeros(10), torch.arange(10) % 2) == 0.5

    @pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
    def test_pearson_of_a_line(self, scale: float) -> None:
        x = torch.randn(50, generator=generator()).double()
        assert metric("pearson")(scale * x, 3 * scale * x - scale) == pytest.approx(1, abs=1e-12)
        assert metric("pearson")(-scale * x, 3 * scale * x - scale) == pytest.approx(-1, abs=1e-12)

    def test_pearson_of_a_constant_does_not_exist(self) -> None:
        assert math.isnan(metric("pearson")(torch.full((11,), 0.1, dtype=torch.float64), torch.arange(11)))
        assert math.isnan(metric("pearson")(torch.tensor([math.inf, 1.0]), torch.tensor([1.0, 2.0])))

    def test_mae_accepts_a_trailing_axis_of_one(self) -> None:
        assert metric("mae")(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 4])) == 1.5

    def test_directions(self) -> None:
        assert {name for name in NAMES if not metric(name).higher_is_better} == {"mae", "perplexity"}


@dataclasses.dataclass
class Holder:
    loss: Tensor
    logits: Tensor | None = None
    hidden: Tensor | None = None


class TestPick:
    tensor = torch.zeros(4, 2)
    loss = torch.tensor(0.5)

    @pytest.mark.parametrize(
        "output",
        [
            tensor,
            Holder(loss, tensor),
            Holder(loss, None, tensor),
            {"logits": tensor},
            OrderedDict(loss=loss, hidden=torch.ones(4, 3), logits=tensor),
            OrderedDict(loss=loss, hidden=tensor),
            (loss, tensor, torch.ones(4)),
            ["state", tensor],
        ],
    )
    def test_takes_the_logits_else_the_first_tensor(self, output: object) -> None:
        assert pick(output) is self.tensor
        assert metric("accuracy")(output, torch.tensor([0, 0, 1, 1])) == 0.5

    @pytest.mark.parametrize("output", [None, 3.0, "logits", {}, (), {"loss": loss}, np.zeros(3), Holder(loss)])
    def test_refuses_the_rest(self, output: object) -> None:
        with pytest.raises(TypeError, match=r"^Argument `output` must be a tensor, or .*; return a tensor, or name it `logits`\.$"):
            pick(output)


class TestFunctions:
    @staticmethod
    def both(outputs: Tensor, targets: Tensor) -> float:
        assert outputs.dtype == torch.float16
        assert outputs.shape[1:] == (3, 2)
        assert targets.dtype == torch.bool
        assert targets.shape == (10,)
        return float(outputs.sum() + targets.sum())

    def test_sees_whole_tensors_again(self) -> None:
        outputs = torch.randn(10, 3, 2, generator=generator()).half()
        targets = torch.arange(10) % 3 == 0
        measure = metric(self.both)
        rows = measure.join([measure.rows(outputs[:4], targets[:4]), measure.rows(outputs[4:], targets[4:])])
        assert measure.name == "both"
        assert measure.compute(rows) == pytest.approx(float(outputs.sum() + 4), rel=1e-3)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bfloat16, torch.float64, torch.int32])
    def test_targets_keep_their_values(self, dtype: torch.dtype) -> None:
        targets = torch.tensor([[0, 1], [100, 7]]).to(dtype)
        seen: list[Tensor] = []
        measure = metric(lambda outputs, targets: seen.append(targets) or torch.tensor(1.0))
        assert measure(torch.zeros(2), targets) == 1.0
        assert torch.equal(seen[0], targets)
        assert seen[0].dtype == dtype
        assert measure.name == "metric"

    def test_nan_never_reaches_the_function(self) -> None:
        assert math.isnan(metric(lambda outputs, targets: 1.0)(torch.tensor([math.nan, 1.0]), torch.zeros(2)))
        assert math.isnan(metric(lambda outputs, targets: 1.0)(torch.zeros(0, 3), torch.zeros(0)))

    def test_name_and_direction(self) -> None:
        measure = metric(reference.mean_squared_error, name="mse", higher_is_better=False)
        assert (measure.name, measure.higher_is_better) == ("mse", False)
        assert measure(torch.tensor([1.0, 3.0]), torch.zeros(2)) == 5
        assert metric(measure) == measure
        assert metric("mae", name="error").name == "error"
        assert not metric("mae", name="error").higher_is_better

    def test_must_return_a_number(self) -> None:
        with pytest.raises(TypeError, match=r"^Metric per_sample must return one number, but got Tensor; reduce it.*\.$"):
            metric(lambda outputs, targets: outputs, name="per_sample")(torch.zeros(3), torch.zeros(3))

    @pytest.mark.parametrize("name", NAMES)
    def test_travels_to_another_process(self, name: str) -> None:
        assert pickle.loads(pickle.dumps(metric(name))).name == name


WRONG = [
    ("accuracy", torch.zeros(4, 3), torch.zeros(4, 3), "`targets`", r"have the shape .*\(4, 3\) and targets \(4, 3\); move"),
    ("accuracy", torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), "`targets`", r"hold whole class numbers 0\.\.2 .* got 3;"),
    ("accuracy", torch.zeros(4), torch.tensor([0, 1, 2, 1]), "`targets`", r"hold whole class numbers 0\.\.1 .* got 2;"),
    ("auc", torch.zeros(2, 3), torch.tensor([0.5, 1.0]), "`targets`", r"hold whole .* got 0\.5;"),
    ("dice", torch.zeros(2, 3), torch.tensor([math.nan, 1.0]), "`targets`", r"hold whole .* got nan;"),
    ("f1", torch.zeros(4, 3, 2), torch.zeros(4, 2), "`outputs`", r"have shape \(N, C\) or \(N,\), .* use dice"),
    ("auc", torch.zeros(4, 3, 2), torch.zeros(4, 2), "`outputs`", r"have shape \(N, C\) or \(N,\)"),
    ("miou", torch.zeros(2, 4, 4, 3), torch.zeros(2, 4, 4), "`targets`", r"have .* move the classes to axis 1"),
    ("mae", torch.zeros(4, 2), torch.zeros(4), "`targets`", r"have the shape of the outputs, but got outputs \(4, 2\) and"),
    ("pearson", torch.zeros(4, dtype=torch.complex64), torch.zeros(4), "`outputs`", r"hold real numbers, but got torch\.complex64"),
    ("accuracy", torch.zeros(4, 2, dtype=torch.complex64), torch.zeros(4), "`outputs`", r"hold real numbers"),
    ("perplexity", torch.zeros(4, 2), torch.zeros(4), "`outputs`", r"have shape \(N, T, V\) and targets \(N, T\)"),
    ("perplexity", torch.zeros(1, 2, 3), torch.tensor([[0, 3]]), "`targets`", r"hold whole class numbers 0\.\.2"),
    ("accuracy", torch.zeros(4, 2), torch.zeros(3), "Arguments", r"have one entry per sample along axis 0, .*\(3,\); put"),
    ("mae", torch.tensor(1.0), torch.tensor(1.0), "Arguments", r"have one entry per sample"),
]


@pytest.mark.parametrize(("name", "outputs", "targets", "argument", "problem"), WRONG)
def test_wrong_input_is_one_line(name: str, outputs: Tensor, targets: Tensor, argument: str, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"{argument} of metric {name} must {problem}") as caught:
        metric(name)(outputs, targets)
    assert "\n" not in str(caught.value)


def test_wrong_specifications_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"^Argument `spec` must be one of accuracy, .*, but got 'acuracy'; did you mean 'accuracy'\?$"):
        metric("acuracy")
    with pytest.raises(ValueError, match=r"but got 'zzz'; choose one, or pass a function of outputs and targets\.$"):
        metric("zzz")
    with pytest.raises(TypeError, match=r"^Argument `spec` must be a metric's name, a Metric or a function, but got int;"):
        metric(3)
    with pytest.raises(TypeError, match=r"^Argument `targets` of metric mae must be a tensor, but got list;"):
        metric("mae")(torch.zeros(2), [0.0, 0.0])
    with pytest.raises(ValueError, match=r"^Field `reduce` of metric mine must return a tensor \(2, k\), but got \(2,\);"):
        Metric("mine", True, lambda y, t: y - t, lambda rows: 0.0)(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"^Metric mae must see at least one batch, but got none;"):
        metric("mae").join([])
    with pytest.raises(ValueError, match=r"^Metric auc must get outputs of one shape per sample, but its rows have widths \[2, 3\];"):
        metric("auc").join([torch.zeros(1, 3), torch.zeros(1, 2)])


def test_inputs_are_left_alone() -> None:
    for name in NAMES:
        outputs, targets = case(name)
        before = outputs.clone(), targets.clone()
        outputs.requires_grad_()
        rows = metric(name).rows(outputs, targets)
        metric(name).compute(rows)
        assert not rows.requires_grad
        assert torch.equal(outputs, before[0])
        assert torch.equal(targets, before[1])
