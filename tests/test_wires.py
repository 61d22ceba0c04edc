"""Wires: Kirchhoff's laws from a netlist, ladders by hand, limits, reciprocity, noise by sampling, and nonlinear cells."""

import numba
import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import effective_matrix, mean_field, multiport, output_variance, sinh_law, solve_nonlinear
from tests import naive

pytestmark = pytest.mark.kernels

COMPILED = not numba.config.DISABLE_JIT
large = pytest.mark.skipif(not COMPILED, reason="too large without the JIT")
EXAMPLES = settings(max_examples=60 if COMPILED else 8, deadline=None)
OHMS = (30.0, 20.0, 80.0, 50.0)
ohm = st.just(0.0) | st.floats(0.5, 1000.0)


def cells(rows: int, columns: int, seed: int = 0, low: float = 1e-6, high: float = 1e-3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, (rows, columns))


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def naive_matrix(conductance: np.ndarray, *ohms: float) -> np.ndarray:
    return naive.crossbar_currents(conductance, np.eye(len(conductance)), *ohms)[0]


@pytest.fixture(params=[2, 3, 20])
def leaf(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Merges also happen in arrays that are small enough for the naive twin."""
    monkeypatch.setattr(multiport, "LARGEST_LEAF", request.param)
    return request.param


class TestMatrix:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (4, 4), (5, 9), (9, 5)])
    @pytest.mark.parametrize("backend", ["numba", "torch"])
    def test_equals_kirchhoff(self, leaf, shape, backend):
        conductance = cells(*shape)
        conductance[shape[0] // 2, shape[1] // 2] *= conductance.size == 1
        assert difference(effective_matrix(conductance, *OHMS, backend=backend), naive_matrix(conductance, *OHMS)) < 1e-11

    @EXAMPLES
    @given(data=st.data(), rows=st.integers(1, 9), columns=st.integers(1, 9), ohms=st.tuples(ohm, ohm, ohm, ohm))
    def test_equals_kirchhoff_anywhere(self, data, rows, columns, ohms):
        values = st.just(0.0) | st.floats(1e-6, 1e-2)
        conductance = np.array(data.draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))).reshape(rows, columns)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(multiport, "LARGEST_LEAF", data.draw(st.integers(1, 4)))
            found = effective_matrix(conductance, *ohms)
        expected = naive_matrix(conductance, *ohms)
        assert np.abs(found - expected).max() <= 1e-8 * np.abs(expected).max() + 1e-300

    @large
    @pytest.mark.parametrize("shape", [(37, 70), (70, 37)])
    def test_equals_kirchhoff_at_full_leaf_size(self, shape):
        conductance = cells(*shape, high=40e-6)
        assert difference(effective_matrix(conductance, 1.86, 1.86), naive_matrix(conductance, 1.86, 1.86)) < 1e-11

    @pytest.mark.parametrize("zeros", [(0, 1), (0, 2), (1, 3), (0, 1, 2, 3)])
    def test_zero_is_the_limit(self, leaf, zeros):
        conductance = cells(6, 5)
        exact = [0.0 if index in zeros else value for index, value in enumerate(OHMS)]
        nearly = [1e-6 if index in zeros else value for index, value in enumerate(OHMS)]
        found = effective_matrix(conductance, *exact)
        assert difference(found, naive_matrix(conductance, *exact)) < 1e-12
        assert 0 < difference(effective_matrix(conductance, *nearly), found) < 1e-6

    def test_ideal_wires_leave_the_cells(self, leaf):
        conductance = cells(7, 6)
        assert difference(effective_matrix(conductance, 0.0, 0.0), conductance) < 1e-15

    def test_one_cell_by_hand(self):
        found = effective_matrix(np.array([[2e-3]]), *OHMS)
        assert found.item() == pytest.approx(1 / (1 / 2e-3 + sum(OHMS)), rel=1e-14)

    def test_ladders_by_hand(self, leaf):
        # v[j-1] - (2 + g r) v[j] + v[j+1] = 0 with v[-1] = 1 V at the driver and v[n] = v[n-1] at the open end.
        count, siemens, resistance = 11, 3e-4, 120.0
        angle = np.arccosh(1 + siemens * resistance / 2)
        ladder = siemens * np.cosh((count - 0.5 - np.arange(count)) * angle) / np.cosh((count + 0.5) * angle)
        row = effective_matrix(np.full((1, count), siemens), resistance, 0.0)
        column = effective_matrix(np.full((count, 1), siemens), 0.0, resistance)
        assert difference(row[0], ladder) < 1e-13
        assert difference(column[::-1, 0], ladder) < 1e-13

    def test_reciprocity(self, leaf):
        conductance, (row, column, source, sense) = cells(5, 8), OHMS
        there = effective_matrix(conductance, row, column, source, sense)
        back = effective_matrix(conductance[::-1, ::-1].T, column, row, sense, source)
        assert difference(back.T[::-1, ::-1], there) < 1e-13

    def test_superposition(self, leaf):
        conductance, inputs = cells(6, 5), np.random.default_rng(1).uniform(-1, 1, (3, 6))
        assert difference(inputs @ effective_matrix(conductance, *OHMS), naive.crossbar_currents(conductance, inputs, *OHMS)[0]) < 1e-12

    @EXAMPLES
    @given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 8), columns=st.integers(1, 8), ohms=st.tuples(ohm, ohm, ohm, ohm))
    def test_passivity(self, seed, rows, columns, ohms):
        conductance = cells(rows, columns, seed)
        row, column, source, sense = ohms
        found = effective_matrix(conductance, *ohms)
        slack = 1 + 1e-12
        assert (found > 0).all()
        assert (found.sum(1) <= conductance.sum(1) * slack).all() and (found.sum(0) <= conductance.sum(0) * slack).all()
        assert (found.sum(1) * (row + source) <= slack).all() and (found.sum(0) * (column + sense) <= slack).all()
        assert effective_matrix(conductance, row + 1.0, column + 1.0, source, sense).sum() < found.sum() * slack

    def test_cells_without_conductance_pass_nothing(self, leaf):
        conductance = cells(6, 4)
        conductance[2], conductance[:, 1] = 0.0, 0.0
        found = effective_matrix(conductance, *OHMS)
        assert (found[2] == 0).all() and (found[:, 1] == 0).all() and (np.delete(found[[0, 1, 3, 4, 5]], 1, 1) > 0).all()
        assert (effective_matrix(np.zeros((3, 3)), *OHMS) == 0).all()

    def test_tiles_are_solved_apart(self, leaf, monkeypatch):
        monkeypatch.setattr("kernels.wires._CELLS_AT_ONCE", 50)
        tiles = np.stack([cells(4, 5, seed) for seed in range(5)])
        found = effective_matrix(tiles, *OHMS)
        assert found.shape == tiles.shape
        for tile, expected in zip(tiles, found, strict=True):
            assert difference(effective_matrix(tile, *OHMS), expected) < 1e-14
        assert effective_matrix(tiles[:0], *OHMS).shape == (0, 4, 5)

    def test_kind_follows_the_argument(self):
        conductance = cells(4, 3)
        double = effective_matrix(conductance, *OHMS)
        single = effective_matrix(conductance.astype(np.float32), *OHMS)
        tensor = effective_matrix(torch.tensor(conductance, requires_grad=True), *OHMS)
        tensor32 = effective_matrix(torch.tensor(conductance[::-1, ::-1].T.copy()).T.flip(0, 1).float(), *OHMS)
        assert double.dtype == np.float64 and single.dtype == np.float32
        assert tensor.dtype == torch.float64 and not tensor.requires_grad and tensor32.dtype == torch.float32
        assert np.array_equal(tensor.numpy(), double)
        assert difference(single, double) < 1e-6 and difference(tensor32.numpy(), double) < 1e-6
        assert difference(effective_matrix(np.asfortranarray(conductance), *OHMS), double) == 0

    @large
    def test_same_bits_for_any_number_of_threads(self):
        conductance, threads, found = cells(150, 140, high=40e-6), torch.get_num_threads(), []
        try:
            for count in (1, 2):
                torch.set_num_threads(count)
                found.append((effective_matrix(conductance, 1.86, 1.86), *mean_field(conductance, 1e-7, 1.86, 1.86)))
                assert torch.get_num_threads() == count
        finally:
            torch.set_num_threads(threads)
        assert all(np.array_equal(one, two) for one, two in zip(*found, strict=True))

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_devices_agree(self):
        conductance = torch.tensor(cells(60, 50))
        found = effective_matrix(conductance.cuda(), *OHMS)
        assert found.is_cuda
        assert difference(found.cpu().numpy(), effective_matrix(conductance, *OHMS).numpy()) < 1e-12


class TestNoise:
    def test_equals_kirchhoff(self, leaf):
        conductance, inputs = cells(6, 5), np.random.default_rng(1).uniform(-1, 1, (4, 6))
        sigma = 0.05 * cells(6, 5, 2)
        voltage = naive.crossbar_currents(conductance, inputs, *OHMS)[1]
        own = np.stack([field[:, column] for column, field in enumerate(naive.crossbar_adjoint(conductance, *OHMS))], 1)
        expected = np.einsum("ij,ij,bij->bj", sigma**2, own**2, voltage**2)
        for backend in ("numba", "torch"):
            assert difference(output_variance(conductance, sigma, inputs, *OHMS, backend=backend), expected) < 1e-11

    def test_equals_drawing_every_cell_and_squaring_the_matrix_does_not(self):
        draws, ohms = 20_000 if COMPILED else 200, (1.0, 300.0)
        rng = np.random.default_rng(0)
        conductance, inputs = cells(8, 5, low=2e-4), rng.uniform(0, 1, (1, 8))
        sigma = 0.03 * conductance
        tiles = conductance + sigma * rng.standard_normal((draws, 8, 5))
        drawn = (inputs @ effective_matrix(tiles, *ohms, backend=None if COMPILED else "torch"))[:, 0].std(0)
        expected = np.sqrt(output_variance(conductance, sigma, inputs, *ohms))[0]
        assert (np.abs(drawn / expected - 1) < (0.02 if COMPILED else 0.2)).all()
        squared = np.sqrt(inputs**2 @ (0.03 * effective_matrix(conductance, *ohms)) ** 2)[0]
        assert (squared / expected > 1.2).all()

    def test_the_noise_of_other_columns_is_small(self):
        conductance = cells(10, 10, high=40e-6)
        inputs = np.random.default_rng(1).uniform(0, 1, (4, 10))
        adjoint = naive.crossbar_adjoint(conductance, 10.0, 10.0)
        voltage = naive.crossbar_currents(conductance, inputs, 10.0, 10.0)[1]
        every = np.einsum("ij,kij,bij->bk", (0.02 * conductance) ** 2, adjoint**2, voltage**2)
        own = output_variance(conductance, 0.02 * conductance, inputs, 10.0, 10.0)
        assert (own < every).all() and difference(own, every) < 1e-4

    def test_ideal_wires_square_the_cells(self, leaf):
        conductance, inputs = cells(6, 5), np.random.default_rng(1).uniform(-1, 1, (4, 6))
        found = output_variance(conductance, 0.02 * conductance, inputs, 0.0, 0.0)
        assert difference(found, inputs**2 @ (0.02 * conductance) ** 2) < 1e-13

    @large
    @pytest.mark.parametrize(("size", "excess"), [(64, 0.04), (128, 0.14)])
    def test_published_errors(self, size, excess):
        # specification of the crossbar family: 1 to 40 uS, 1.86 ohm; squaring the matrix, and the mean field
        conductance, inputs = cells(size, size, high=40e-6), np.random.default_rng(1).uniform(0, 1, (20, size))
        expected = np.sqrt(output_variance(conductance, 0.02 * conductance, inputs, 1.86, 1.86))
        squared = np.sqrt(inputs**2 @ (0.02 * effective_matrix(conductance, 1.86, 1.86)) ** 2)
        assert (squared / expected).mean() - 1 == pytest.approx(excess, abs=0.01)
        errors = np.abs(np.sqrt(self.applied(mean_field(conductance, 0.02 * conductance, 1.86, 1.86), inputs)) / expected - 1)
        assert 1e-5 < errors.mean() < 0.005 and errors.max() < 0.03

    @staticmethod
    def applied(field, inputs):
        mean = inputs.mean(-1, keepdims=True)
        return inputs**2 @ field.square + (inputs * mean) @ field.cross + mean**2 * field.constant[..., None, :]

    @pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (6, 5)])
    def test_mean_field_is_exact_for_equal_inputs(self, leaf, shape):
        conductance, inputs = cells(*shape), np.array([[0.3], [-0.7]]) * np.ones(shape[0])
        field = mean_field(conductance, 0.02 * conductance, *OHMS)
        assert [part.shape for part in field] == [shape, shape, shape[1:]]
        assert difference(self.applied(field, inputs), output_variance(conductance, 0.02 * conductance, inputs, *OHMS)) < 1e-11

    def test_mean_field_is_unbiased_in_the_voltage(self):
        # the response to another row than the cell's own is replaced by its mean over those rows
        conductance = cells(6, 1)
        field = mean_field(conductance, 1e-6, *OHMS)
        responses = naive.crossbar_currents(conductance, np.eye(6), *OHMS)[1][:, :, 0]
        adjoint = naive.crossbar_adjoint(conductance, *OHMS)[0, :, 0]
        own = np.diag(responses)
        other = (responses.sum(0) - own) / 5
        assert difference(field.square[:, 0], (1e-6 * adjoint * (own - other)) ** 2) < 1e-11
        assert difference(field.constant, np.array([((1e-6 * adjoint * 6 * other) ** 2).sum()])) < 1e-11

    def test_tiles_kinds_and_one_sigma(self):
        tiles, inputs = np.stack([cells(4, 3, seed) for seed in range(3)]), np.random.default_rng(1).uniform(0, 1, (3, 2, 4))
        found = output_variance(tiles, 1e-6, inputs, *OHMS)
        assert found.shape == (3, 2, 3)
        field = mean_field(torch.tensor(tiles), 1e-6, *OHMS)
        for tile in range(3):
            one = output_variance(tiles[tile], np.full((4, 3), 1e-6), inputs[tile], *OHMS)
            assert difference(found[tile], one) < 1e-13
            for part, single in zip(field, mean_field(tiles[tile], 1e-6, *OHMS), strict=True):
                assert difference(part[tile].numpy(), single) < 1e-13
        assert output_variance(tiles, 0, inputs, *OHMS).max() == 0
        assert output_variance(tiles[0], 1e-6, inputs[0, :0], *OHMS).shape == (0, 3)
        assert isinstance(output_variance(torch.tensor(tiles), 1e-6, torch.tensor(inputs), *OHMS), torch.Tensor)

    @large
    def test_batches_are_taken_in_parts(self, monkeypatch):
        conductance, inputs = cells(30, 20), np.random.default_rng(1).uniform(0, 1, (7, 30))
        whole = output_variance(conductance, 1e-6, inputs, *OHMS)
        monkeypatch.setattr("kernels.wires._VOLTAGES_AT_ONCE", 2000)
        assert difference(output_variance(conductance, 1e-6, inputs, *OHMS), whole) < 1e-13


class TestNonlinear:
    @pytest.mark.parametrize("ohms", [OHMS, (0.0, 30.0), (30.0, 0.0), (0.0, 0.0, 100.0)])
    def test_linear_cells_give_the_matrix(self, ohms):
        conductance, inputs = cells(6, 5), np.random.default_rng(1).uniform(-1, 1, (3, 6))
        for law in (sinh_law(0.0), sinh_law(1e-12), lambda v, g: (g * v, g)):
            found = solve_nonlinear(conductance, inputs, *ohms, law=law)
            assert difference(found.currents, inputs @ effective_matrix(conductance, *ohms)) < 1e-9

    @pytest.mark.parametrize("per_volt", [0.5, 3.0, 12.0])
    def test_equals_a_root_finder_on_the_nodes(self, per_volt):
        conductance, inputs = cells(3, 4), np.array([0.7, -0.2, 1.0])
        wires, row_nodes, column_nodes = naive.crossbar_netlist(np.zeros((3, 4)), *OHMS)
        held = {f"driver {i}": inputs[i] for i in range(3)} | {f"sense {j}": 0.0 for j in range(4)}
        free = [name for line in row_nodes + column_nodes for name in line]

        def volts_of(values):
            return held | dict(zip(free, values, strict=True))

        def leaving(values):
            volts, total = volts_of(values), dict.fromkeys([*held, *free], 0.0)
            for first, second, siemens in wires:
                total[first] += siemens * (volts[first] - volts[second])
                total[second] -= siemens * (volts[first] - volts[second])
            for i in range(3):
                for j in range(4):
                    row, column = row_nodes[i][j], column_nodes[i][j]
                    current = conductance[i, j] * np.sinh(per_volt * (volts[row] - volts[column])) / per_volt
                    total[row] += current
                    total[column] -= current
            return total

        solution = scipy.optimize.root(lambda values: [leaving(values)[name] for name in free], np.zeros(len(free)), tol=1e-14)
        expected = np.array([-leaving(solution.x)[f"sense {j}"] for j in range(4)])
        assert max(abs(leaving(solution.x)[name]) for name in free) < 1e-12
        found = solve_nonlinear(conductance, inputs[None], *OHMS, law=sinh_law(per_volt))
        assert difference(found.currents[0], expected) < 1e-7
        assert found.iterations.shape == (1,) and 2 <= found.iterations[0] <= 30

    def test_one_cell_by_hand(self):
        found = solve_nonlinear(np.array([[1e-3]]), np.array([[1.0]]), 100.0, 200.0, 300.0, 400.0, law=sinh_law(4.0)).currents.item()
        voltage = 1.0 - 1000.0 * found
        assert found == pytest.approx(1e-3 * np.sinh(4 * voltage) / 4, rel=1e-9)

    def test_steep_laws_converge_from_far_away(self):
        conductance, inputs = cells(5, 4), np.random.default_rng(1).uniform(-2, 2, (3, 5))
        found = solve_nonlinear(conductance, inputs, *OHMS, law=sinh_law(40.0))
        assert np.isfinite(found.currents).all() and found.iterations.max() > 5
        # At these currents the wires take the voltage: no more flows than with cells that are short circuits.
        assert (np.abs(found.currents) < 2 * 5 / (OHMS[1] + OHMS[3])).all()

    def test_a_law_with_saturation(self):
        def law(voltage, conductance):
            return conductance * np.tanh(voltage / 0.2) * 0.2, conductance / np.cosh(voltage / 0.2) ** 2

        conductance, inputs = cells(5, 4), np.full((1, 5), 0.8)
        found = solve_nonlinear(conductance, inputs, *OHMS, law=law)
        ideal = solve_nonlinear(conductance, inputs, 0.0, 0.0, law=law)
        assert (found.currents < ideal.currents).all() and ideal.iterations[0] == 1
        assert difference(ideal.currents[0], law(inputs[0, :, None], conductance)[0].sum(0)) < 1e-14

    def test_inputs_do_not_see_each_other(self):
        tiles, inputs = np.stack([cells(4, 5, seed) for seed in range(2)]), np.random.default_rng(1).uniform(0, 1, (2, 3, 4))
        inputs[0, 1] = 0.0
        found = solve_nonlinear(torch.tensor(tiles), torch.tensor(inputs), *OHMS, law=sinh_law(2.0))
        assert found.currents.shape == (2, 3, 5) and found.iterations.shape == (2, 3)
        assert found.iterations[0, 1] == 0 and (found.currents[0, 1] == 0).all()
        alone = solve_nonlinear(tiles[1], inputs[1, 2:], *OHMS, law=sinh_law(2.0))
        assert np.array_equal(found.currents[1, 2].numpy(), alone.currents[0])

    def test_refuses_what_does_not_converge(self, monkeypatch):
        conductance, inputs = cells(5, 4), np.full((1, 5), 1.0)
        with pytest.raises(RuntimeError, match="`max_iterations` = 1.*raise"):
            solve_nonlinear(conductance, inputs, *OHMS, law=sinh_law(8.0), max_iterations=1)
        with pytest.raises(RuntimeError, match="must reduce the error.*slopes of `law` are its derivative"):
            solve_nonlinear(conductance, inputs, *OHMS, law=lambda v, g: (-1e3 * g * v, g))
        monkeypatch.setattr("kernels.wires_nonlinear._INNER_STEPS", 1)
        with pytest.raises(RuntimeError, match="within 1 steps of conjugate gradients.*lower"):
            solve_nonlinear(conductance, inputs, *OHMS, law=sinh_law(8.0))

    @pytest.mark.parametrize(
        ("law", "message"),
        [
            (lambda v, g: (-g * v, -g), "slopes of at least 0"),
            (lambda v, g: ((g * v).sum(0), g), "two arrays of the shape"),
        ],
    )
    def test_refuses_bad_laws(self, law, message):
        with pytest.raises(ValueError, match=f"`law` must.*{message}.*do "):
            solve_nonlinear(cells(3, 2), np.ones((1, 3)), *OHMS, law=law)

    def test_refuses_bad_settings(self):
        for bad in (-1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=r"`per_volt` must be finite and at least 0, but got"):
                sinh_law(bad)
        with pytest.raises(ValueError, match="`tolerance` must be above 0"):
            solve_nonlinear(cells(3, 2), np.ones((1, 3)), *OHMS, law=sinh_law(1.0), tolerance=0.0)
        with pytest.raises(ValueError, match="`max_iterations` must be at least 1"):
            solve_nonlinear(cells(3, 2), np.ones((1, 3)), *OHMS, law=sinh_law(1.0), max_iterations=0)


class TestBadInput:
    @pytest.mark.parametrize("position", range(4))
    @pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
    def test_refuses_resistances(self, position, bad):
        ohms = [1.0, 1.0, 1.0, 1.0]
        ohms[position] = bad
        name = ("row_ohm", "column_ohm", "source_ohm", "sense_ohm")[position]
        with pytest.raises(ValueError, match=rf"`{name}` must be finite and at least 0 ohm, but got {bad}; do [^\n]*$"):
            effective_matrix(cells(2, 2), *ohms)

    @pytest.mark.parametrize(
        ("conductance", "message"),
        [
            (np.array([[1e-6, -2e-6]]), "at least 0 siemens, but got -2e-06; do"),
            (np.array([[1e-6, np.nan]]), "finite, but got nan or inf; do"),
            (np.array([[1e-6, np.inf]]), "finite, but got nan or inf; do"),
            (np.ones(3), r"shape \(rows, columns\) or \(tiles, rows, columns\), but got \(3,\); do"),
            (np.ones((1, 1, 1, 1)), r"but got \(1, 1, 1, 1\); do"),
            (np.ones((0, 3)), r"but got \(0, 3\); do"),
            (np.ones((2, 2), np.int64), "float32 or float64 numpy array or tensor, but got ndarray of int64; do"),
            (torch.ones(2, 2, dtype=torch.float16), "but got Tensor of torch.float16; do"),
            ([[1e-6]], "but got list; do"),
        ],
    )
    def test_refuses_conductances(self, conductance, message):
        with pytest.raises(ValueError, match=f"`conductance` must.*{message}"):
            effective_matrix(conductance, 1.0, 1.0)

    @pytest.mark.parametrize(
        ("sigma", "message"),
        [
            (-1.0, "at least 0"),
            (float("nan"), "finite"),
            (np.ones((3, 2)), r"\(2, 3\), but got \(3, 2\)"),
            (-np.ones((2, 3)), "at least 0"),
        ],
    )
    def test_refuses_sigmas(self, sigma, message):
        with pytest.raises(ValueError, match=f"`sigma` must.*{message}"):
            output_variance(cells(2, 3), sigma, np.ones((1, 2)), 1.0, 1.0)
        with pytest.raises(ValueError, match=f"`sigma` must.*{message}"):
            mean_field(cells(2, 3), sigma, 1.0, 1.0)

    @pytest.mark.parametrize("inputs", [np.ones(2), np.ones((1, 3)), np.ones((1, 1, 2)), np.full((1, 2), np.nan)])
    def test_refuses_inputs(self, inputs):
        with pytest.raises(ValueError, match="`inputs` must"):
            output_variance(cells(2, 3), 1e-6, inputs, 1.0, 1.0)
        with pytest.raises(ValueError, match="`inputs` must"):
            solve_nonlinear(cells(2, 3), inputs, 1.0, 1.0, law=sinh_law(1.0))

    def test_refuses_unknown_backends(self):
        with pytest.raises(ValueError, match='`backend` must be "numba"'):
            effective_matrix(cells(2, 3), 1.0, 1.0, backend="cuda")
