"""The fused epilogue and the DAC: twins, backends, the law of the noise, and bits that depend on neither the JIT nor threads."""

import hashlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from kernels import Key, bits, convert, get_threads, normal, quantize, set_threads, truncated_normal, uniform
from tests import naive

pytestmark = pytest.mark.kernels

COMPILED = not numba.config.DISABLE_JIT
large = pytest.mark.skipif(not COMPILED, reason="too large without the JIT")
EXAMPLES = settings(max_examples=25 if COMPILED else 6, deadline=None)
KEY = Key.of(seed=21, purpose="read", read=5)
SHAPES = [(0,), (3, 0), (), (1,), (7, 5), (1023,), (1024,), (1025,), (2, 3, 171)]


def values_and_variance(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return 4 * normal(KEY.fold("values"), shape), uniform(KEY.fold("variance"), shape)


class TestConvert:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("backend", ["numba", "torch"])
    def test_equals_naive(self, shape, backend):
        values, variance = values_and_variance(shape)
        noise = normal(KEY, shape).numpy()
        expected = naive.convert(values.numpy(), noise, variance.numpy(), 0.3, 9, 4.0)
        result = convert(values, variance=variance, key=KEY, step=0.3, limit=9, scale=4.0, backend=backend)
        assert result.dtype == torch.float32
        assert result.shape == values.shape
        assert np.array_equal(result.numpy(), expected)

    @EXAMPLES
    @given(
        length=st.integers(0, 1100),
        noisy=st.booleans(),
        step=st.just(0.0) | st.floats(2**-10, 1024, width=32),
        limit=st.integers(1, 2**24),
        scale=st.sampled_from([1.0, 0.1, -2.0, 256.0]),
        accumulate=st.booleans(),
    )
    def test_backends_and_naive_agree(self, length, noisy, step, limit, scale, accumulate):
        values, variance = values_and_variance((length,))
        limit = limit if step else 0
        start = normal(KEY.fold("out"), length)
        results = []
        for backend in ("numba", "torch"):
            out = start.clone()
            returned = convert(
                values,
                variance=variance if noisy else None,
                key=KEY,
                step=step,
                limit=limit,
                scale=scale,
                out=out,
                accumulate=accumulate,
                backend=backend,
            )
            assert returned is out
            results.append(out)
        assert torch.equal(*results)
        expected = naive.convert(
            values.numpy(),
            normal(KEY, length).numpy(),
            variance.numpy() if noisy else None,
            step,
            limit,
            scale,
            start.numpy() if accumulate else None,
        )
        assert np.array_equal(results[0].numpy(), expected)

    def test_nothing_asked_is_a_copy(self):
        values, _ = values_and_variance((1025,))
        result = convert(values)
        assert torch.equal(result, values)
        assert result.data_ptr() != values.data_ptr()

    @pytest.mark.parametrize("backend", ["numba", "torch"])
    def test_in_place(self, backend):
        values, variance = values_and_variance((1030,))
        expected = convert(values, variance=variance, key=KEY, step=0.5, limit=3)
        assert convert(values, variance=variance, key=KEY, step=0.5, limit=3, out=values, backend=backend) is values
        assert torch.equal(values, expected)

    def test_sum_of_slices(self):
        slices = [torch.tensor([1.0, -2.0, 3.0]), torch.tensor([2.0, 0.0, -1.0])]
        out = torch.zeros(3)
        for index, values in enumerate(slices):
            convert(values, step=1.0, limit=7, scale=4.0**index, out=out, accumulate=True)
        assert out.tolist() == [9.0, -2.0, -1.0]

    @pytest.mark.parametrize("backend", ["numba", "torch"])
    def test_ties_go_to_even_and_codes_are_clipped(self, backend):
        values = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 3.5, 3.49, -9.0, torch.inf, -torch.inf])
        codes = convert(values * 0.25, step=0.25, limit=3, backend=backend) / 0.25
        assert codes.tolist() == [0, 2, 2, 0, -2, 3, 3, -3, 3, -3]

    @pytest.mark.parametrize("backend", ["numba", "torch"])
    def test_nan_stays_nan(self, backend):
        assert convert(torch.tensor([torch.nan, 1.0]), step=1.0, limit=2, backend=backend).isnan().tolist() == [True, False]
        with np.errstate(invalid="ignore"):
            negative = convert(torch.ones(2), variance=torch.tensor([-1.0, 0.0]), key=KEY, backend=backend)
        assert negative.isnan().tolist() == [True, False]

    @pytest.mark.parametrize("limit", [1, 7, 127])
    def test_half_a_step_of_error_and_number_of_codes(self, limit):
        step = 0.037
        values = torch.linspace(-1.5 * limit * step, 1.5 * limit * step, 20_001 if COMPILED else 1500)
        result = convert(values, step=step, limit=limit)
        inside = values.abs() <= limit * step
        # Beyond half a step: the rounding of the division and the product, relative 2^-24 each.
        assert float((result - values)[inside].abs().max()) <= step / 2 + limit * step * 2**-23
        assert torch.equal(result[~inside], torch.sign(values[~inside]) * (limit * torch.tensor(step)))
        assert result.unique().numel() == 2 * limit + 1

    @large
    def test_law_of_the_noise(self):
        values, variance = values_and_variance((400, 1000))
        noisy = convert(values, variance=variance * 9, key=KEY)
        standardized = (noisy.double() - values) / (variance.double() * 9).sqrt()
        assert scipy.stats.kstest(standardized.flatten().numpy(), "norm").pvalue > 1e-3
        for part in (variance < 0.1, variance > 0.9):
            assert abs(float(standardized[part].std()) - 1) < 5 / np.sqrt(2 * int(part.sum()))
        again = convert(values, variance=variance * 9, key=KEY.at(6))
        other = (again.double() - values) / (variance.double() * 9).sqrt()
        assert abs(float((standardized * other).mean())) < 5 / np.sqrt(values.numel())

    @large
    def test_threads(self):
        values, variance = values_and_variance((70 * 1024 + 11,))
        results = []
        try:
            for count in (1, 2):
                set_threads(count)
                out = values.clone()
                convert(values, variance=variance, key=KEY, step=0.1, limit=31, out=out, accumulate=True)
                results.append(out)
        finally:
            set_threads(1)
        results.append(convert(values, variance=variance, key=KEY, step=0.1, limit=31, backend="torch").add_(values))
        assert all(torch.equal(results[0], result) for result in results)

    def test_gradients_are_ignored(self):
        values = torch.ones(3, requires_grad=True)
        for backend in ("numba", "torch"):
            assert not convert(values, variance=torch.ones(3, requires_grad=True), key=KEY, backend=backend).requires_grad

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"values": torch.ones(2, dtype=torch.float64)}, "`values` must have dtype torch.float32, but got torch.float64"),
            ({"values": torch.ones(2, 3).T}, r"`values` must be contiguous, but got strides \(1, 3\)"),
            ({"variance": torch.ones(3)}, r"`variance` must have the shape .*\(2,\) on cpu, but got \(3,\)"),
            ({"variance": torch.ones(2)}, "`key` must be given"),
            ({"variance": torch.ones(4)[::2], "key": KEY}, "`variance` must be contiguous"),
            ({"out": torch.ones(4)[::2]}, "`out` must be contiguous"),
            ({"out": torch.ones(2, device="meta")}, "`out` must have the shape and device .* on meta"),
            ({"accumulate": True}, "`out` must be given"),
            ({"step": -0.1, "limit": 3}, "`step` must .* got -0.1"),
            ({"step": float("nan"), "limit": 3}, "`step` must .* got nan"),
            ({"step": 1e-60, "limit": 3}, "`step` must .* got 1e-60"),
            ({"step": 0.1}, "`limit` must be from 1 to .* got 0"),
            ({"step": 0.1, "limit": 2**24 + 1}, "`limit` must be from 1 to .* got 16777217"),
            ({"limit": 3}, "`limit` must be 0 without a `step`, but got 3"),
            ({"scale": float("inf")}, "`scale` must be finite, but got inf"),
            ({"backend": "cuda"}, "`backend` must"),
        ],
    )
    def test_refuses(self, changes, message):
        # Run as plain Python, the shape checks of the tests come before those of the function.
        with pytest.raises((ValueError, TypeCheckError), match=message if COMPILED else f"{message}|Type-check error"):
            convert(**{"values": torch.ones(2)} | changes)


class TestQuantize:
    @EXAMPLES
    @given(length=st.integers(0, 1030), step=st.floats(2**-6, 8, width=32), low=st.integers(-9, 0), span=st.integers(0, 300))
    def test_equals_naive(self, length, step, low, span):
        values, _ = values_and_variance((length,))
        expected = naive.quantize(values.numpy(), step, low, low + span)
        for backend in ("numba", "torch"):
            assert np.array_equal(quantize(values, step, low, low + span, backend=backend).numpy(), expected)

    @EXAMPLES
    @given(step=st.floats(2**-10, 1024, width=32), low=st.integers(-100, 0), high=st.integers(0, 100))
    def test_levels_are_fixed_points(self, step, low, high):
        levels = torch.arange(low, high + 1, dtype=torch.float32) * step
        assert torch.equal(quantize(levels, step, low, high), levels)
        for backend in ("numba", "torch"):
            codes = quantize(levels, step, low, high, unit=1.0, backend=backend)
            assert torch.equal(codes, torch.arange(low, high + 1, dtype=torch.float32))

    def test_out(self):
        values = torch.tensor([[0.1, 0.6], [-3.0, 9.0]])
        assert quantize(values, 0.5, -2, 4, out=values) is values
        assert values.tolist() == [[0.0, 0.5], [-1.0, 2.0]]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((0.0, 0, 3), "`step` must be above 0"),
            ((-1.0, 0, 3), "`step` must be 0 or a positive"),
            ((1.0, 3, 0), "low = 3, high = 0"),
            ((1.0, 0, 2**24 + 1), "low = 0, high = 16777217"),
        ],
    )
    def test_refuses(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            quantize(torch.ones(2), *arguments)


def digest(count: int) -> str:
    key = Key.of(seed=22, read=2**35)
    values, variance = normal(key, count), uniform(key.fold("v"), count)
    converted = convert(values, variance=variance, key=key, step=0.1, limit=20)
    drawn = [values, variance, converted, truncated_normal(key, values.abs(), variance + 1)]
    return hashlib.sha256(b"".join(each.numpy().tobytes() for each in drawn) + bits(key, count).tobytes()).hexdigest()


@large
def test_bits_do_not_depend_on_the_jit():
    script = "import hashlib, numba\nfrom kernels import Key, bits, convert, normal, truncated_normal, uniform\n" + inspect.getsource(
        digest
    )
    finished = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", script + "print(numba.config.DISABLE_JIT, digest(1500))"],
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")}
        | {"PYTHONPATH": str(Path(__file__).parents[1]), "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stdout.split() == ["1", digest(1500)]


@large
def test_bits_do_not_depend_on_threads():
    count = 70 * 1024 + 5
    one = digest(count)
    set_threads(2)
    try:
        assert get_threads() == min(2, numba.config.NUMBA_NUM_THREADS)
        assert digest(count) == one
    finally:
        set_threads(1)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_codes_without_a_sign(backend):
    values = torch.tensor([-3.0, -0.4, 0.5, 1.5, 2.6, 9.0])
    assert convert(values, step=1.0, limit=3, low=0, backend=backend).tolist() == [0, 0, 0, 2, 3, 3]
    with pytest.raises(ValueError, match=r"`low` must be from -2\*\*24 to 0, but got 1"):
        convert(values, step=1.0, limit=3, low=1, backend=backend)
