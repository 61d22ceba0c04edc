"""Streams: known answers, twins, laws, and independence between streams."""

import math
import pickle

import numba
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import Key, bits, fill_normal_chunk, normal, truncated_normal, uniform
from kernels.philox import exact_sqrt, fill_word_chunk
from kernels.random import worker_count
from kernels.threads import set_threads
from tests import naive

pytestmark = pytest.mark.kernels

COMPILED = not numba.config.DISABLE_JIT
large = pytest.mark.skipif(not COMPILED, reason="too large without the JIT")
EXAMPLES = settings(max_examples=20 if COMPILED else 4, deadline=None)
MILLION = 1 << 20

# Random123 1.09, examples/kat_vectors, philox4x32 10: counter, key, output.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
words32 = st.integers(0, 2**32 - 1)
keys = st.builds(Key, words32, words32, st.integers(0, 2**64 - 1))


def correlation_sigmas(x: torch.Tensor, y: torch.Tensor) -> float:
    return abs(float((x.double() * y.double()).mean())) * math.sqrt(x.numel())


class TestWords:
    @pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
    def test_known_answers(self, counter, key, answer):
        assert naive.philox4x32(counter, key) == answer
        block = counter[0] + (counter[1] << 32)
        out = np.empty(1024, np.uint32)
        fill_word_chunk(*key, counter[2], counter[3], block // 256, out)
        assert tuple(out.reshape(4, 256)[:, block % 256].tolist()) == answer

    @EXAMPLES
    @given(keys, st.integers(0, 1100))
    def test_equal_naive_and_torch(self, key, count):
        drawn = bits(key, count)
        assert drawn.dtype == np.uint32
        assert drawn.tolist() == naive.words(key.word0, key.word1, key.read, count)
        assert np.array_equal(drawn, bits(key, count, backend="torch"))

    @large
    def test_torch_pieces_and_threads_join(self):
        key = Key.of(seed=1, read=2**40)
        count = 1024 * 1024 + 3000
        set_threads(2)
        try:
            assert worker_count(64) == min(numba.get_num_threads(), 2)
            assert np.array_equal(bits(key, count), bits(key, count, backend="torch"))
        finally:
            set_threads(1)

    @large
    def test_each_bit_is_fair(self):
        drawn = bits(Key.of(seed=2), MILLION)
        for bit in range(32):
            assert abs(int((drawn >> np.uint32(bit) & np.uint32(1)).sum()) - MILLION / 2) < 5 * math.sqrt(MILLION) / 2


class TestUniform:
    @EXAMPLES
    @given(keys, st.lists(st.integers(0, 9), max_size=4))
    def test_equal_naive_and_torch(self, key, shape):
        drawn = uniform(key, shape)
        assert drawn.dtype == torch.float32
        assert drawn.shape == tuple(shape)
        expected = naive.uniform(key.word0, key.word1, key.read, drawn.numel()).reshape(shape)
        assert np.array_equal(drawn.numpy(), expected)
        assert torch.equal(drawn, uniform(key, shape, backend="torch"))

    @pytest.mark.parametrize("backend", ["numba", "torch"])
    def test_never_one(self, backend):
        # One word in 2^25 rounds to 1: found by a search over keys.
        key, element = Key(4696, 0), 94
        assert bits(key, 95)[element] == 0xFFFFFF8C
        assert naive.unit(0xFFFFFF8C) == 1
        assert naive.unit(0) == 2.0**-32
        assert float(uniform(key, 95, backend=backend)[element]) == 1 - 2**-24
        assert normal(key, 512, backend=backend)[[element, element + 256]].tolist() == [0.0, 0.0]

    @large
    def test_law(self):
        drawn = uniform(Key.of(seed=3), 1 << 23)
        assert 0.0 < float(drawn.min()) < 1e-6
        assert 1 - 1e-6 < float(drawn.max()) < 1.0
        assert scipy.stats.kstest(drawn[:MILLION].numpy(), "uniform").pvalue > 1e-3
        for rate in (1e-5, 1e-3, 0.3):
            hits = int((drawn < rate).sum())
            assert abs(hits - rate * drawn.numel()) < 5 * math.sqrt(rate * drawn.numel())


class TestNormal:
    @EXAMPLES
    @given(keys, st.integers(0, 1500))
    def test_naive_and_torch(self, key, count):
        drawn = normal(key, count)
        expected = naive.normal(key.word0, key.word1, key.read, count)
        assert np.all(np.abs(drawn.numpy() - expected) <= 6e-7 + 4e-7 * np.abs(expected))
        assert torch.equal(drawn, normal(key, count, backend="torch"))

    @large
    def test_torch_backend_many(self):
        key = Key.of(seed=4)
        assert torch.equal(normal(key, 2 * MILLION + 5), normal(key, 2 * MILLION + 5, backend="torch"))

    @EXAMPLES
    @given(keys, st.integers(0, 3000), st.integers(0, 3000))
    def test_prefix(self, key, first, second):
        short, long = sorted((first, second))
        assert torch.equal(normal(key, short), normal(key, long)[:short])
        assert torch.equal(uniform(key, short), uniform(key, long)[:short])
        assert np.array_equal(bits(key, short), bits(key, long)[:short])

    @large
    def test_prefix_across_the_threads_threshold(self):
        key = Key.of(seed=5)
        assert torch.equal(normal(key, 63 * 1024), normal(key, 64 * 1024 + 7)[: 63 * 1024])

    def test_chunk_is_a_slice(self):
        key = Key.of(seed=6, read=2**33 + 1)
        out = np.empty(1024, np.float32)
        fill_normal_chunk(*key.words(), 2, out)
        assert np.array_equal(out, normal(key, 3 * 1024).numpy()[2048:])

    @large
    def test_law(self):
        drawn = normal(Key.of(seed=7), 4 * MILLION).double().numpy()
        n = drawn.size
        assert scipy.stats.kstest(drawn[:MILLION], "norm").pvalue > 1e-3
        # Standard errors of the first four moments of a standard normal: 1, sqrt(2), sqrt(15), sqrt(96) over sqrt(n).
        for power, moment, sigma in ((1, 0, 1), (2, 1, math.sqrt(2)), (3, 0, math.sqrt(15)), (4, 3, math.sqrt(96))):
            assert abs((drawn**power).mean() - moment) < 5 * sigma / math.sqrt(n)
        for bound in (3.0, 4.0, 5.0):
            expected = 2 * scipy.stats.norm.sf(bound) * n
            assert abs((np.abs(drawn) > bound).sum() - expected) < 5 * math.sqrt(expected) + 1
        assert np.abs(drawn).max() <= 6.6605

    @large
    def test_planes_are_normal_and_independent(self):
        planes = normal(Key.of(seed=8), 4 * MILLION).view(-1, 4, 256).transpose(0, 1).reshape(4, -1)
        for plane in planes:
            assert scipy.stats.kstest(plane.numpy(), "norm").pvalue > 1e-3
        for first in range(4):
            for second in range(first):
                x, y = planes[first], planes[second]
                assert correlation_sigmas(x, y) < 5
                assert correlation_sigmas((x * x - 1) / math.sqrt(2), (y * y - 1) / math.sqrt(2)) < 5

    @large
    @pytest.mark.parametrize("lag", [1, 2, 255, 256, 512, 1024])
    def test_lags(self, lag):
        drawn = normal(Key.of(seed=9), MILLION)
        assert correlation_sigmas(drawn[lag:], drawn[:-lag]) < 5

    @large
    def test_streams_are_independent(self):
        key = Key.of(seed=0)
        others = [
            key.at(1),
            key.at(2**32),
            key.fold(0),
            key.fold("0"),
            Key.of(seed=1),
            Key.of(seed=0, trial=1),
            Key.of(seed=0, layer="a"),
            Key.of(seed=0, tile=1),
            Key.of(seed=0, purpose="read"),
            Key(key.word0 ^ 1, key.word1),
        ]
        streams = [normal(each, MILLION) for each in (key, *others)]
        for index, x in enumerate(streams):
            for y in streams[:index]:
                assert correlation_sigmas(x, y) < 5
                assert not torch.equal(x, y)

    @pytest.mark.parametrize("shape", [(), 0, 5, (2, 0), (2, 3), [4], torch.Size([1, 2])])
    def test_shapes(self, shape):
        for draw in (normal, uniform):
            for backend in ("numba", "torch"):
                assert draw(Key(1, 2), shape, backend=backend).shape == torch.empty(shape).shape

    def test_refuses(self):
        key = Key(1, 2)
        for draw in (normal, uniform):
            with pytest.raises(ValueError, match=r"`shape` must .* got \(2, -1\)"):
                draw(key, (2, -1))
            with pytest.raises(ValueError, match=r"`backend` must .* got 'cuda'"):
                draw(key, 1, backend="cuda")
            with pytest.raises(ValueError, match=r"`backend` must .* on device meta"):
                draw(key, 1, "meta", backend="numba")
        with pytest.raises(ValueError, match="`n` must be at least 0, but got -1"):
            bits(key, -1)

    def test_no_global_generator(self):
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()
        normal(Key(1, 2), 10)
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == np.random.get_state()[1].tolist()


def test_exact_sqrt_equals_hardware():
    values = uniform(Key.of(seed=10), 20_000 if COMPILED else 1000) * 50
    assert np.array_equal(exact_sqrt(values).numpy(), np.sqrt(values.numpy()))


class TestTruncatedNormal:
    @large
    @pytest.mark.parametrize(("mean", "sigma", "low"), [(1.0, 1.3, 0.0), (0.0, 1.0, 0.0), (-2.0, 1.0, 0.0), (5.0, 2.0, 6.5)])
    def test_law(self, mean, sigma, low):
        drawn = truncated_normal(Key.of(seed=11), torch.full((200_000,), mean), torch.tensor(sigma), low)
        law = scipy.stats.truncnorm((low - mean) / sigma, math.inf, mean, sigma)
        assert float(drawn.min()) >= low
        assert scipy.stats.kstest(drawn.numpy(), law.cdf).pvalue > 1e-3

    def test_redraws_only_what_is_below(self):
        key = Key.of(seed=12, read=3)
        mean = torch.linspace(0.1, 1.0, 60).view(3, 20)
        sigma = torch.linspace(0.1, 2.0, 20)
        expected = (mean + sigma * normal(key, (3, 20))).flatten().tolist()
        below = [index for index, value in enumerate(expected) if value < 0.2]
        attempt = 0
        while below and attempt < 100:
            attempt += 1
            fresh = normal(key.fold("redraw", attempt), len(below)).tolist()
            for index, value in zip(below, fresh, strict=True):
                product = np.float32(sigma[index % 20].item()) * np.float32(value)
                expected[index] = float(np.float32(mean.flatten()[index].item()) + product)
            below = [index for index in below if expected[index] < np.float32(0.2)]
        assert 1 < attempt < 100
        drawn = truncated_normal(key, mean, sigma, 0.2)
        assert drawn.flatten().tolist() == expected
        assert torch.equal(drawn, truncated_normal(key, mean, sigma, 0.2))

    def test_far_from_the_bound_is_normal(self):
        key = Key.of(seed=13)
        mean, sigma = torch.full((50,), 100.0), torch.full((50,), 2.0)
        assert torch.equal(truncated_normal(key, mean, sigma), mean + sigma * normal(key, 50))

    def test_edges(self):
        key = Key.of(seed=14)
        assert truncated_normal(key, torch.empty(0, 3), torch.tensor(1.0)).shape == (0, 3)
        assert truncated_normal(key, torch.tensor(2.0), torch.ones(2, 1)).shape == (2, 1)
        assert truncated_normal(key, torch.tensor([0.0, 3.0]), torch.zeros(2)).tolist() == [0.0, 3.0]
        drawn = truncated_normal(key, torch.ones(3, requires_grad=True), torch.ones(3))
        assert not drawn.requires_grad

    @pytest.mark.parametrize(
        ("mean", "sigma", "low", "message"),
        [
            pytest.param(
                [1.0, -1.0], [1.0, 0.0], 0.0, "`low` must .* low = 0, with 1 of 2 draws .* mean -1, sigma 0.* do raise", marks=large
            ),
            ([1.0], [-0.5], 0.0, "`sigma` must be at least 0, but got -0.5"),
            ([math.nan], [1.0], 0.0, "`mean` must be finite"),
            ([1.0], [math.inf], 0.0, "`sigma` must be finite"),
            ([1.0], [1.0], -math.inf, "`low` must be finite, but got -inf"),
        ],
    )
    def test_refuses(self, mean, sigma, low, message):
        with pytest.raises(ValueError, match=message):
            truncated_normal(Key(1, 2), torch.tensor(mean), torch.tensor(sigma), low)

    def test_refuses_other_dtypes(self):
        with pytest.raises(ValueError, match=r"`mean` must have dtype torch.float32, but got torch.float64"):
            truncated_normal(Key(1, 2), torch.ones(2, dtype=torch.float64), torch.ones(2))


class TestKey:
    def test_frozen_words(self):
        # Stored results name their streams: these hashes may never change.
        assert Key.of(seed=0) == Key(2197039889, 3168791611)
        assert Key.of(seed=0, layer="conv1", purpose="read") == Key(320303119, 2717306241)
        assert Key.of(seed=-1, trial=2, layer="é", tile=3, purpose="p", read=4) == Key(1794776893, 305039421, 4)
        assert Key(1, 2, 3).fold("redraw", 1) == Key(4266064721, 3921278824, 3)

    @given(st.lists(st.lists(st.integers() | st.text(max_size=3), min_size=1, max_size=3), min_size=2, max_size=5))
    def test_fold_tells_parts_apart(self, folds):
        distinct = {tuple((type(part), part) for part in parts) for parts in folds}
        assert len({Key(1, 2).fold(*parts) for parts in folds}) == len(distinct)

    def test_fold_boundaries_and_order(self):
        key = Key.of(seed=0)
        folded = [key.fold(*p) for p in [("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab"), (1, 2), (2, 1), (12,), ("12",), ("1", 2)]]
        assert len({*folded, key}) == len(folded) + 1
        assert key.fold("a").fold("b") != key.fold("a", "b")

    @given(keys, st.integers(0, 2**64 - 1))
    def test_read_is_kept_beside_the_words(self, key, read):
        assert key.fold("x").read == key.read
        assert key.at(read) == Key(key.word0, key.word1, read)
        assert key.at(read).fold("x") == key.fold("x").at(read)
        low, high = key.words()[2:]
        assert low + (high << 32) == key.read

    @given(keys)
    def test_pickle_and_hash(self, key):
        copy = pickle.loads(pickle.dumps(key))
        assert copy == key
        assert hash(copy) == hash(key)
        with pytest.raises(AttributeError):
            key.read = 1

    def test_numpy_integers(self):
        assert Key.of(seed=np.int64(3), read=np.int32(2)) == Key.of(seed=3, read=2)
        assert Key(1, 2).at(np.int64(5)).read == 5

    @pytest.mark.parametrize("field", ["word0", "word1", "read"])
    @pytest.mark.parametrize("value", [-1, 2**64, 1.0, "1"])
    def test_refuses_values(self, field, value):
        with pytest.raises(ValueError, match=f"`{field}` must be an integer from 0"):
            Key(**{"word0": 1, "word1": 2, field: value})

    def test_refuses_arguments(self):
        with pytest.raises(ValueError, match=r"`read` must be an integer, but got 1\.5"):
            Key(1, 2).at(1.5)
        with pytest.raises(ValueError, match=r"`parts` must be an integer.* got 1\.5"):
            Key.of(seed=1.5)
        with pytest.raises(ValueError, match="`parts` must have at least one"):
            Key(1, 2).fold()
