"""What is measured: metrics as statistics of single samples, which stream over batches and can be resampled.

A metric is two functions. ``reduce`` turns the outputs and targets of a batch into one row of numbers per sample; ``compute`` turns the
rows of any set of samples into the value. The rows of all batches are all that is kept, and the same rows give the error of the test set.

Conventions
-----------
- The class axis is axis 1, as in ``torch.nn.functional.cross_entropy``; only perplexity has it last.
- Class scores are logits. One score per sample, shape (N,) or (N, 1, ...), is the logit of class 1, which is predicted above 0.
- A target of -100 is left out (``IGNORED``, the default of ``cross_entropy``).
- Macro averages run over the classes that occur in the targets or in the predictions, the background included. With a single logit F1, Dice
  and IoU are those of class 1.
- Sums run over the data set, not over the batch: the value does not depend on the batch size.
- A NaN in an output that counts, or a statistic that does not exist (a correlation with a constant), gives NaN.
"""

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

__all__ = ["IGNORED", "Metric", "metric", "pick"]

IGNORED = -100
"""Target value that is left out of every metric on classes."""

_PROBABILITY_TOLERANCE = 5e-3  # a softmax in bfloat16 sums to one only this closely
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_DTYPES = (*_FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)

Rows = Float64[Tensor, "samples statistics"]
"""Statistics of samples, float64 on the CPU: one row per sample."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A measure of outputs against targets, in a form that streams over batches.

    Parameters
    ----------
    name
        What tables call it.
    higher_is_better
        False for an error, such as the mean absolute error.
    reduce
        Outputs (N, ...) and targets (N, ...) of a batch to rows (N, k), float64 on the CPU; NaN in the row of a sample with broken outputs.
    compute
        Rows (n, k) of any n samples to the value; NaN where a row has NaN.

    Examples
    --------
    >>> within = Metric("within_half", True, lambda y, t: ((y - t).abs() < 0.5).double()[:, None], lambda rows: float(rows.mean()))
    >>> within(torch.tensor([1.0, 2.0]), torch.tensor([1.1, 3.0]))
    0.5
    """

    name: str
    higher_is_better: bool
    reduce: Callable[[Tensor, Tensor], Rows]
    compute: Callable[[Rows], float]

    def rows(self, output: object, targets: Tensor) -> Rows:
        """Statistics of one batch, from whatever the model returned.

        Parameters
        ----------
        output
            The model's output; `pick` takes the tensor out of it.
        targets
            Shape (N, ...).

        Returns
        -------
        Tensor
            Shape (N, k), float64, on the CPU.

        Raises
        ------
        TypeError
            If there is no tensor in `output`, or `targets` is none.
        ValueError
            If shapes or values do not fit the metric.

        Examples
        --------
        >>> metric("accuracy").rows({"logits": torch.eye(2)}, torch.tensor([0, 0]))
        tensor([[1., 1.],
                [0., 1.]], dtype=torch.float64)
        """
        outputs = pick(output).detach()
        if not isinstance(targets, Tensor):
            got = type(targets).__name__
            raise TypeError(f"Argument `targets` of metric {self.name} must be a tensor, but got {got}; convert it with torch.as_tensor.")
        samples = targets.shape[0] if targets.ndim else None
        if outputs.ndim == 0 or outputs.shape[0] != samples:
            problem = f"must have one entry per sample along axis 0, but got outputs {_shape(outputs)} and targets {_shape(targets)}"
            raise ValueError(f"Arguments of metric {self.name} {problem}; put the batch first.")
        rows = self.reduce(outputs, targets.detach().to(outputs.device))
        if not isinstance(rows, Tensor) or rows.ndim != 2 or rows.shape[0] != samples:
            got = _shape(rows) if isinstance(rows, Tensor) else type(rows).__name__
            problem = f"must return a tensor ({samples}, k), but got {got}"
            raise ValueError(f"Field `reduce` of metric {self.name} {problem}; return one row per sample.")
        return rows.to("cpu").double()

    def join(self, batches: Iterable[Tensor]) -> Rows:
        """Put the rows of all batches together.

        Raises
        ------
        ValueError
            If there is no batch, or if batches differ in width (outputs whose size changes from batch to batch).

        Examples
        --------
        >>> metric("mae").join([torch.ones(2, 2).double(), torch.ones(3, 2).double()]).shape
        torch.Size([5, 2])
        """
        parts = list(batches)
        if not parts:
            raise ValueError(f"Metric {self.name} must see at least one batch, but got none; check that the data is not empty.")
        widths = sorted({part.shape[1] for part in parts})
        if len(widths) > 1:
            problem = f"must get outputs of one shape per sample, but its rows have widths {widths}"
            raise ValueError(f"Metric {self.name} {problem}; pad the batches, or write a Metric whose rows have a fixed width.")
        return torch.cat(parts)

    def __call__(self, output: object, targets: Tensor) -> float:
        """Value over one set of outputs and targets.

        Examples
        --------
        >>> metric("mae")(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        1.0
        """
        return self.compute(self.rows(output, targets))


def metric(
    spec: "str | Metric | Callable[[Tensor, Tensor], float]", *, name: str | None = None, higher_is_better: bool | None = None
) -> Metric:
    """Metric by name, or made of a function of all outputs and all targets.

    ============ ================================= ==================== =============================================================
    name         outputs                           targets              value
    ============ ================================= ==================== =============================================================
    accuracy     (N, C, ...) or (N,) logits        (N, ...) classes     fraction of targets that the largest score names
    auc          (N, C) or (N,) logits             (N,) classes         area under the ROC curve, one against the rest, macro average
                                                                        over classes that have samples both inside and outside
    f1           (N, C) or (N,) logits             (N,) classes         F1, macro average
    dice         (N, C, ...) or (N, 1, ...) logits (N, ...) classes     Dice coefficient, macro average
    miou         (N, C, ...) or (N, 1, ...) logits (N, ...) classes     intersection over union, macro average
    mae          (N, ...) values                   as the outputs       mean absolute error over all values; lower is better
    pearson      (N, ...) values                   as the outputs       correlation over samples, mean over the values of a sample
    perplexity   (N, T, V) logits                  (N, T) tokens        exp of the mean negative log likelihood of a token, the
                                                                        targets aligned with the outputs; lower is better
    ============ ================================= ==================== =============================================================

    The AUC ranks softmax probabilities of the logits; outputs that all are probabilities already (not negative, rows that sum to one) are
    ranked as they are. A function sees the outputs of the whole data set, which are kept: NaN among them gives NaN without a call.

    Parameters
    ----------
    spec
        A name of the table, a `Metric`, which is returned, or a function ``f(outputs, targets) -> float``.
    name
        Another name for it; by default the function's.
    higher_is_better
        Its direction; for a function True unless given.

    Raises
    ------
    ValueError
        If there is no metric of that name.
    TypeError
        If `spec` is none of these.

    Examples
    --------
    >>> metric("accuracy")(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    0.5
    >>> error = metric(lambda outputs, targets: float((outputs - targets).abs().max()), name="worst_error", higher_is_better=False)
    >>> error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.5]))
    2.5
    """
    if isinstance(spec, Metric):
        found = spec
    elif isinstance(spec, str):
        if spec not in _BUILT_IN:
            near = difflib.get_close_matches(spec.lower(), _BUILT_IN, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "choose one, or pass a function of outputs and targets."
            raise ValueError(f"Argument `spec` must be one of {', '.join(_BUILT_IN)}, but got {spec!r}; {hint}")
        found = _BUILT_IN[spec]
    elif callable(spec):
        own = getattr(spec, "__name__", type(spec).__name__)
        own = "metric" if own == "<lambda>" else own
        found = Metric(own, True, functools.partial(_function_rows, name or own), functools.partial(_function_value, name or own, spec))
    else:
        got = type(spec).__name__
        raise TypeError(f"Argument `spec` must be a metric's name, a Metric or a function, but got {got}; see simulator.metric.")
    direction = found.higher_is_better if higher_is_better is None else higher_is_better
    return dataclasses.replace(found, name=name or found.name, higher_is_better=direction)


def pick(output: object) -> Tensor:
    """Take the tensor that is measured out of a model's output.

    A tensor is itself. Else, in this order: the attribute ``logits``, the entry ``"logits"``, and the first tensor with a batch axis (a
    loss has none) among the values of a mapping, the items of a tuple or list, or the fields of a dataclass.

    Raises
    ------
    TypeError
        If none of these is a tensor.

    Examples
    --------
    >>> pick((torch.tensor(0.3), torch.zeros(4, 10), "state")).shape
    torch.Size([4, 10])
    """
    if isinstance(output, Tensor):
        return output
    candidates: list[Any] = [getattr(output, "logits", None)]
    if isinstance(output, Mapping):
        candidates += [output.get("logits"), *output.values()]
    elif isinstance(output, Sequence) and not isinstance(output, str):
        candidates += output
    elif dataclasses.is_dataclass(output):
        candidates += [getattr(output, field.name) for field in dataclasses.fields(output)]
    for candidate in candidates:
        if isinstance(candidate, Tensor) and candidate.ndim:
            return candidate
    raise TypeError(
        f"Argument `output` must be a tensor, or a dict, tuple or dataclass that holds one, but got {type(output).__name__}; "
        "return a tensor, or name it `logits`."
    )


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _refuse(argument: str, name: str, problem: str, remedy: str) -> ValueError:
    return ValueError(f"Argument `{argument}` of metric {name} must {problem}; {remedy}.")


def _require_real(argument: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in _DTYPES:
        raise _refuse(argument, name, f"hold real numbers, but got {tensor.dtype}", "convert it, for example with torch.view_as_real")


def _floating(name: str, outputs: Tensor) -> Tensor:
    _require_real("outputs", name, outputs)
    return outputs if outputs.is_floating_point() else outputs.float()


def _classes(name: str, targets: Tensor, classes: int) -> Tensor:
    """Targets as int64, all of them in range or IGNORED."""
    _require_real("targets", name, targets)
    whole = targets.long()
    wrong = (whole != targets) | ((whole != IGNORED) & ((whole < 0) | (whole >= classes)))
    if bool(wrong.any()):
        problem = f"hold whole class numbers 0..{classes - 1} ({IGNORED} is ignored), but got {targets[wrong][0].item():g}"
        raise _refuse("targets", name, problem, "check the labels and the number of outputs")
    return whole


@dataclasses.dataclass(frozen=True)
class _Labels:
    """Predicted and true classes (N, P), where NaN decided (N, P), and the number of scores (1: a single logit)."""

    predictions: Tensor
    targets: Tensor
    broken: Tensor
    scores: int

    @property
    def counted(self) -> Tensor:
        return self.targets != IGNORED


def _scores(name: str, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (N, C, P) and targets (N, P), both checked."""
    scores = _floating(name, outputs)
    scores = scores[:, None] if scores.ndim == 1 else scores
    if scores.shape[1] == 1 and targets.shape == scores.shape:
        targets = targets[:, 0]
    if targets.shape != scores.shape[:1] + scores.shape[2:] or scores.shape[1] == 0:
        problem = f"have the shape of the outputs without the class axis 1, but got outputs {_shape(outputs)} and targets {_shape(targets)}"
        raise _refuse("targets", name, problem, "move the classes to axis 1, and turn one-hot targets into class numbers with argmax(1)")
    samples, classes, positions = len(scores), scores.shape[1], math.prod(targets.shape[1:])
    return scores.reshape(samples, classes, positions), _classes(name, targets, max(2, classes)).reshape(samples, positions)


def _labels(name: str, outputs: Tensor, targets: Tensor) -> _Labels:
    scores, truth = _scores(name, outputs, targets)
    predictions = (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(1)
    return _Labels(predictions, truth, scores.isnan().any(1) & (truth != IGNORED), scores.shape[1])


def _poison(rows: Tensor, broken: Tensor) -> Rows:
    """Rows in float64, NaN where a sample is broken: argmax and `>` would hide it."""
    return rows.double().masked_fill(broken.any(1, keepdim=True), float("nan")).cpu()


def _accuracy_rows(outputs: Tensor, targets: Tensor) -> Rows:
    labels = _labels("accuracy", outputs, targets)
    correct = labels.counted & (labels.predictions == labels.targets)
    return _poison(torch.stack([correct.sum(1), labels.counted.sum(1)], 1), labels.broken)


def _ratio(rows: Rows) -> float:
    total, count = rows.sum(0)
    return float(total / count)


def _overlap_rows(name: str, outputs: Tensor, targets: Tensor) -> Rows:
    """Per class: predicted and true, predicted, true; shape (N, 3 C)."""
    labels = _labels(name, outputs, targets)
    classes = max(2, labels.scores)
    samples = len(labels.targets)
    first = torch.arange(samples, device=outputs.device)[:, None] * classes

    def count(values: Tensor, where: Tensor) -> Tensor:
        return torch.bincount((first + values)[where], minlength=samples * classes).view(samples, classes)

    both = count(labels.targets, labels.counted & (labels.predictions == labels.targets))
    table = torch.stack([both, count(labels.predictions, labels.counted), count(labels.targets, labels.counted)], 1)
    table = table[:, :, 1:] if labels.scores == 1 else table
    return _poison(table.reshape(samples, 3 * table.shape[2]), labels.broken)


def _dice(rows: Rows) -> float:
    both, predicted, true = rows.sum(0).view(3, -1)
    return _macro(2 * both / (predicted + true))


def _miou(rows: Rows) -> float:
    both, predicted, true = rows.sum(0).view(3, -1)
    return _macro(both / (predicted + true - both))


def _macro(scores: Tensor) -> float:
    """Mean over the classes that exist (0 / 0 else); a broken sample has NaN for every class."""
    return float(scores[~scores.isnan()].mean())


def _f1_rows(outputs: Tensor, targets: Tensor) -> Rows:
    """Predicted class, true class, first class that is averaged: a row as short for a thousand classes as for two."""
    labels = _labels("f1", outputs, targets)
    if labels.targets.shape[1] != 1:
        raise _refuse("outputs", "f1", f"have shape (N, C) or (N,), but got {_shape(outputs)}", "use dice, which is the F1 of positions")
    lowest = torch.full_like(labels.targets, int(labels.scores == 1))
    return _poison(torch.cat([labels.predictions, labels.targets, lowest], 1), labels.broken)


def _f1(rows: Rows) -> float:
    if bool(rows.isnan().any()) or not len(rows):
        return float("nan")
    predicted, true, _ = rows[rows[:, 1] != IGNORED].long().unbind(1)
    classes = int(torch.cat([predicted, true, torch.zeros(1, dtype=torch.int64)]).max()) + 1
    both, each, other = (torch.bincount(x, minlength=classes).double() for x in (true[predicted == true], predicted, true))
    return _macro((2 * both / (each + other))[int(rows[0, 2]) :])


def _auc_rows(outputs: Tensor, targets: Tensor) -> Rows:
    scores, truth = _scores("auc", outputs, targets)
    if truth.shape[1] != 1:
        raise _refuse("outputs", "auc", f"have shape (N, C) or (N,), but got {_shape(outputs)}", "give one prediction per sample")
    return torch.cat([scores[:, :, 0].double(), truth.double()], 1).cpu()


def _auc(rows: Rows) -> float:
    rows = rows[rows[:, -1] != IGNORED]
    scores, truth = rows[:, :-1], rows[:, -1:]
    if scores.shape[1] > 1:
        scores = _log_odds(scores)
    if bool(scores.isnan().any()) or not len(rows):
        return float("nan")
    labels = truth[:, 0].numpy()
    first = int(scores.shape[1] == 1)  # a single logit is of class 1
    areas = []
    for number, column in enumerate(scores.T.contiguous().numpy(), first):
        own = column[labels == number]
        others = column.size - own.size
        if own.size and others:
            ordered = np.sort(column)
            ranks = (np.searchsorted(ordered, own) + np.searchsorted(ordered, own, side="right") + 1) / 2
            areas.append((ranks.sum() - own.size * (own.size + 1) / 2) / (own.size * others))
    return float(np.mean(areas)) if areas else float("nan")


def _log_odds(scores: Tensor) -> Tensor:
    """Order of the softmax probabilities without their saturation at 1, which would tie all confident samples."""
    if bool((scores >= 0).all()) and bool(((scores.sum(1) - 1).abs() < _PROBABILITY_TOLERANCE).all()):
        return scores
    top = scores.argmax(1, keepdim=True)
    log_probability = scores - scores.logsumexp(1, keepdim=True)
    rest = scores.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    odds = log_probability - torch.log1p(-log_probability.exp())
    return odds.scatter(1, top, scores.gather(1, top) - rest)


def _values(name: str, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Check outputs and targets, and make both (N, P) in float64."""
    _require_real("outputs", name, outputs)
    _require_real("targets", name, targets)
    width = math.prod(outputs.shape[1:])
    if outputs.shape != targets.shape and not width == math.prod(targets.shape[1:]) == 1:
        problem = f"have the shape of the outputs, but got outputs {_shape(outputs)} and targets {_shape(targets)}"
        raise _refuse("targets", name, problem, "reshape one of them")
    return outputs.double().reshape(len(outputs), width), targets.double().reshape(len(targets), width)


def _mae_rows(outputs: Tensor, targets: Tensor) -> Rows:
    values, truth = _values("mae", outputs, targets)
    total = (values - truth).abs().sum(1)
    return torch.stack([total, torch.full_like(total, values.shape[1])], 1).cpu()


def _pearson_rows(outputs: Tensor, targets: Tensor) -> Rows:
    return torch.cat(_values("pearson", outputs, targets), 1).cpu()


def _pearson(rows: Rows) -> float:
    if not len(rows) or bool((rows == rows[0]).all(0).any()) or not bool(rows.isfinite().all()):
        return float("nan")
    centered = rows - rows.mean(0)
    outputs, targets = (centered / centered.abs().amax(0)).chunk(2, 1)  # squares of small values must not underflow
    correlation = (outputs * targets).sum(0) / (outputs.norm(dim=0) * targets.norm(dim=0))
    return float(correlation.clamp(-1, 1).mean())


def _perplexity_rows(outputs: Tensor, targets: Tensor) -> Rows:
    if outputs.ndim != 3 or targets.shape != outputs.shape[:2]:
        problem = f"have shape (N, T, V) and targets (N, T), but got outputs {_shape(outputs)} and targets {_shape(targets)}"
        raise _refuse("outputs", "perplexity", problem, "put the vocabulary last")
    truth = _classes("perplexity", targets, outputs.shape[2])
    logits = _floating("perplexity", outputs)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), truth.flatten(), ignore_index=IGNORED, reduction="none")
    return torch.stack([loss.view(truth.shape).double().sum(1), (truth != IGNORED).sum(1).double()], 1).cpu()


def _perplexity(rows: Rows) -> float:
    total, count = rows.sum(0)
    return float((total / count).exp())


def _function_rows(name: str, outputs: Tensor, targets: Tensor) -> Rows:
    """Shapes and dtypes, then all values: what a function of whole tensors needs, as rows."""
    parts = []
    for what, tensor in (("outputs", outputs), ("targets", targets)):
        _require_real(what, name, tensor)
        header = torch.tensor([_DTYPES.index(tensor.dtype), tensor.ndim - 1, *tensor.shape[1:]], dtype=torch.float64)
        parts += [header.expand(len(tensor), -1), tensor.double().cpu().reshape(len(tensor), math.prod(tensor.shape[1:]))]
    return torch.cat(parts, 1)


def _function_value(name: str, function: Callable[[Tensor, Tensor], float], rows: Rows) -> float:
    if not len(rows):
        return float("nan")
    tensors = []
    start = 0
    for _ in range(2):
        dtype, axes = rows[0, start : start + 2].long().tolist()
        shape = rows[0, start + 2 : start + 2 + axes].long()
        start += 2 + axes
        width = int(shape.prod())
        tensors.append(rows[:, start : start + width].reshape(len(rows), *shape.tolist()).to(_DTYPES[dtype]))
        start += width
    if bool(tensors[0].isnan().any()):
        return float("nan")
    value = function(tensors[0], tensors[1])
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        got = type(value).__name__
        raise TypeError(f"Metric {name} must return one number, but got {got}; reduce it, for example with .mean().item().") from None


_BUILT_IN = {
    found.name: found
    for found in (
        Metric("accuracy", True, _accuracy_rows, _ratio),
        Metric("mae", False, _mae_rows, _ratio),
        Metric("pearson", True, _pearson_rows, _pearson),
        Metric("auc", True, _auc_rows, _auc),
        Metric("f1", True, _f1_rows, _f1),
        Metric("dice", True, functools.partial(_overlap_rows, "dice"), _dice),
        Metric("miou", True, functools.partial(_overlap_rows, "miou"), _miou),
        Metric("perplexity", False, _perplexity_rows, _perplexity),
    )
}
