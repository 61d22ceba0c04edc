"""The one-pass rules for second derivatives against the exact diagonal, layer by layer, on trained networks.

``inloop bench curvature_rules`` prints what the rules, and one draw of ``fisher``, make of the diagonal, and writes
``benchmarks/results/curvature_rules.json`` and ``curvature_rules.png``. The rules drop cross terms: they are exact for the last linear
layer, and what they miss before it shows here. The exact diagonal is that of the Gauss-Newton matrix, E[(dL/dw)^2] over all labels
weighted by the model's own probabilities, by a sweep over labels and samples; it is the Hessian's where all but the loss is piecewise
linear, as in these networks.
"""

from collections.abc import Callable

import matplotlib as mpl
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import simulator as sim
from benchmarks.networks import resnet18
from benchmarks.paper_networks import convnet, enlarged_digits, lenet
from benchmarks.timing import RESULTS, save
from kernels import Key
from simulator._isolation import one_thread, private_generator
from simulator.data import DataSplit, digits
from simulator.figures import STYLE
from simulator.models import digits_mlp
from simulator.progress import track

COMMAND = "inloop bench curvature_rules"
REFERENCE = (
    "a reference run on a trained MLP with 32 hidden units: ratio 0.63 to 1.33 (5 to 95 %), Spearman 0.77; convolutions as low as 0.053"
)
SAMPLES = 96
BLOCK = 16
"""Samples whose gradients are held at once."""
SHOWN = 1e-4
"""Least ratio in the figure."""
TOP = 0.1
"""Share of the weights that a selection takes."""
METHODS = ("second_derivative", "fisher")
COLORS = {"second_derivative": "#0072B2", "fisher": "#D55E00"}
NAMES = {"second_derivative": "rules, one pass", "fisher": "fisher, one draw"}
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], DataSplit], int]] = {
    "MLP 64-32-32-10": (lambda: digits_mlp(hidden=32), digits, 30),
    "LeNet": (lenet, lambda: enlarged_digits(28), 4),
    "ConvNet, widths / 16": (lambda: convnet(16), lambda: enlarged_digits(32, 3), 4),
    "ResNet-18, widths / 16": (lambda: resnet18(width=4), lambda: enlarged_digits(16, 3), 4),
}


def exact_diagonal(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return the diagonal of the Gauss-Newton matrix of the mean cross entropy, for each parameter.

    Examples
    --------
    >>> model = nn.Linear(1, 2, bias=False)
    >>> _ = nn.init.zeros_(model.weight)
    >>> exact_diagonal(model, torch.tensor([[2.0]]))["weight"].flatten().tolist()
    [1.0, 1.0]
    """
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}

    def log_probability(values: dict[str, Tensor], sample: Tensor, label: Tensor) -> Tensor:
        scores: Tensor = torch.func.functional_call(model, values, (sample.unsqueeze(0),))
        return scores.log_softmax(1).squeeze(0).gather(0, label.unsqueeze(0)).squeeze(0)

    gradients = torch.func.vmap(torch.func.grad(log_probability), (None, 0, 0))
    model.eval()
    with torch.no_grad():
        probabilities = model(inputs).softmax(1)
    for start in range(0, len(inputs), BLOCK):
        samples = inputs[start : start + BLOCK]
        for label in range(probabilities.shape[1]):
            found = gradients(parameters, samples, torch.full((len(samples),), label))
            share = probabilities[start : start + BLOCK, label]
            for name, part in found.items():
                sums[name] += torch.tensordot(share, part.square(), 1)
    return {name: part / len(inputs) for name, part in sums.items()}


def run(case: str) -> pd.DataFrame:
    """Return a row per weight matrix and method: its ratio to the exact diagonal, rank correlation, and what a choice keeps."""
    network, data, epochs = CASES[case]
    split = data()
    assert isinstance(split.train, TensorDataset)
    with private_generator(Key.of(seed=0, purpose="rules")):
        model = network()
    sim.fit(model, split.train_batches(), epochs=epochs)
    x, y = (part[:SAMPLES] for part in split.train.tensors)
    with one_thread():
        exact = exact_diagonal(model, x)
    rows = []
    for method in METHODS:
        found = sim.second_derivative(model, (x, y), method=method)  # type: ignore[arg-type]
        for place, (name, parameter) in enumerate(item for item in model.named_parameters() if item[1].dim() > 1):
            one, other = found[name].flatten(), exact[name].flatten()
            live = other > 1e-3 * other.mean()
            low, middle, high = torch.quantile(one[live] / other[live], torch.tensor([0.05, 0.5, 0.95])).tolist()
            chosen = torch.topk(one, max(1, round(TOP * len(one)))).indices
            best = torch.topk(other, len(chosen)).values
            rows.append(
                {
                    "case": case, "method": method, "place": place, "layer": name, "weights": parameter.numel(),
                    "total": float(one.sum() / other.sum()), "ratio_5": low, "ratio_50": middle, "ratio_95": high,
                    "spearman": float(spearmanr(one, other).statistic), "kept_of_top": float(other[chosen].sum() / best.sum()),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def figure(frame: pd.DataFrame) -> Figure:
    """Draw, for each layer of each network, the ratio to the exact diagonal, and how much of the best tenth a choice keeps."""
    cases = list(dict.fromkeys(frame["case"]))
    with mpl.rc_context(STYLE):
        made = Figure(figsize=(2.6 * len(cases), 4.4), layout="constrained")
        FigureCanvasAgg(made)
        places = made.subplots(2, len(cases), squeeze=False, sharey="row")
        for column, case in enumerate(cases):
            above, below = places[0][column], places[1][column]
            for shift, method in enumerate(METHODS):
                _draw(above, below, frame[(frame["case"] == case) & (frame["method"] == method)], method, 0.3 * shift - 0.15)
            above.axhline(1.0, color="black", linewidth=0.7)
            above.set_yscale("log")
            above.set_title(case)
            below.set_ylim(0, 1.05)
            below.set_xlabel("layer, from the input")
        places[0][0].set_ylabel("ratio to the exact diagonal\n(median, 5 to 95 %)")
        places[1][0].set_ylabel("exact sensitivity in the chosen tenth\nover that of the best tenth")
        places[0][0].legend(loc="lower left")
    return made


def _draw(above: Axes, below: Axes, part: pd.DataFrame, method: str, shift: float) -> None:
    low, middle, high = (part[name].clip(lower=SHOWN) for name in ("ratio_5", "ratio_50", "ratio_95"))
    at = part["place"] + shift
    spread = [middle - low, high - middle]
    above.errorbar(at, middle, yerr=spread, fmt="o", markersize=3, capsize=2, color=COLORS[method], label=NAMES[method])
    below.plot(part["place"], part["kept_of_top"], marker="o", markersize=3, color=COLORS[method])


def main() -> None:
    """Measure, print and save."""
    frame = pd.concat([run(case) for case in track(list(CASES), len(CASES), "networks")], ignore_index=True)
    print(f"second derivatives over the exact Gauss-Newton diagonal, {SAMPLES} samples; kept_of_top: share of the best tenth's sensitivity")
    print(frame.drop(columns=["place"]).round(3).to_string(index=False))
    print(REFERENCE)
    path = RESULTS / "curvature_rules.png"
    figure(frame).savefig(path.with_suffix(".part"), format="png", dpi=150)
    path.with_suffix(".part").replace(path)
    print(f"written to {save('curvature_rules', COMMAND, frame)} and {path.name}")


if __name__ == "__main__":
    main()
