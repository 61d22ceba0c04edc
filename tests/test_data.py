"""Data sets: the embedded digits, what a study may name, and the order of batches."""

import random
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from kernels.random import Key, bits
from simulator.data import Batches, DataSplit, digits, load_data


def one_line(error: pytest.ExceptionInfo[ValueError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def arrays(count: int = 20, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    inputs = np.random.default_rng(0).random((count, 3))
    return inputs, np.arange(count) % classes


def test_digits_are_all_of_scikit_learns_images_once_and_stratified() -> None:
    split = digits()
    (x, y), (x_test, y_test) = split.train.tensors, split.test.tensors
    assert (len(x), len(x_test), split.classes, split.name) == (1437, 360, 10, "digits")
    assert x.shape[1:] == (1, 8, 8) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert x.min() == 0 and x.max() == 1
    raw = load_digits()
    ours = np.concatenate([torch.cat([x, x_test]).flatten(1).numpy() * 16, torch.cat([y, y_test]).numpy()[:, None]], axis=1)
    theirs = np.concatenate([raw.data, raw.target[:, None]], axis=1)
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
    share = np.bincount(raw.target) * 360 / 1797
    assert np.abs(y_test.bincount().numpy() - share).max() < 1
    assert torch.equal(x_test, digits().test.tensors[0])


def test_no_global_generator_is_read_or_changed() -> None:
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    first = [batch[1].tolist() for batch in digits().train_batches(seed=3)]
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1]) and before[2] == random.getstate()
    torch.manual_seed(99)
    assert first == [batch[1].tolist() for batch in digits().train_batches(seed=3)]


@given(count=st.integers(1, 70), size=st.integers(1, 80), seed=st.one_of(st.none(), st.integers(0, 2**63)), epoch=st.integers(0, 10**6))
def test_batches_hold_every_sample_once(count: int, size: int, seed: int | None, epoch: int) -> None:
    rows = torch.arange(count)
    batches = Batches(rows.double(), rows, size, seed=seed)
    batches.set_epoch(epoch)
    found = list(batches)
    assert len(found) == len(batches)
    assert all(len(targets) == size for _, targets in found[:-1]) and 1 <= len(found[-1][1]) <= size
    order = torch.cat([targets for _, targets in found])
    assert torch.equal(torch.cat([inputs for inputs, _ in found]).long(), order)
    if seed is None:
        expected = list(range(count))
    else:
        draw = bits(Key.of(seed=seed, purpose="batches", read=epoch), count).tolist()
        expected = sorted(range(count), key=lambda row: draw[row])
    assert order.tolist() == expected
    assert batches.epoch == epoch + 1


def test_order_of_batches_is_uniform_over_permutations() -> None:
    batches = Batches(torch.zeros(4), torch.arange(4), 4, seed=0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(2400):
        order = tuple(next(iter(batches))[1].tolist())
        counts[order] = counts.get(order, 0) + 1
    chi_square = sum((count - 100) ** 2 / 100 for count in counts.values())
    assert len(counts) == 24 and chi_square < 49.7  # 23 degrees of freedom, p = 0.001


def test_batches_differ_between_epochs_and_seeds_and_repeat_for_the_same() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = Batches(torch.zeros(50), torch.arange(50), 50, seed=seed)
        batches.set_epoch(epoch)
        return next(iter(batches))[1].tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)


@pytest.mark.parametrize(
    ("inputs", "targets", "size", "words"),
    [(3, 2, 1, "`targets`.*got 2 for 3"), (0, 0, 1, "at least one"), (3, 3, 0, "`batch_size`.*got 0")],
)
def test_batches_refuse(inputs: int, targets: int, size: int, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        Batches(torch.zeros(inputs), torch.zeros(targets), size)
    one_line(error)


def test_a_split_gives_batches_or_the_users_own() -> None:
    own = [(torch.zeros(2, 1), torch.zeros(2))]
    split = DataSplit(TensorDataset(torch.zeros(5, 1), torch.arange(5)), own, None, "mine")
    assert [len(targets) for _, targets in split.train_batches(3)] == [3, 2]
    assert next(iter(split.train_batches(5, seed=None)))[1].tolist() == [0, 1, 2, 3, 4]
    assert split.test_batches(1) is own


def test_folder_of_npz_files(tmp_path: Path) -> None:
    inputs, targets = arrays()
    np.savez(tmp_path / "train.npz", inputs=inputs, targets=targets)
    np.savez(tmp_path / "test.npz", images=inputs[:6], labels=targets[:6])
    split = load_data(str(tmp_path))
    assert torch.equal(split.train.tensors[0], torch.from_numpy(inputs).float())
    assert split.test.tensors[1].tolist() == targets[:6].tolist()
    assert (split.classes, split.name) == (4, tmp_path.name)


def test_relative_names_are_relative_to_the_folder_of_the_study(tmp_path: Path) -> None:
    inputs, targets = arrays()
    (tmp_path / "here").mkdir()
    np.savez(tmp_path / "here" / "all.npz", x_train=inputs, y_train=targets, x_test=inputs[:5], y_test=targets[:5])
    assert len(load_data("here", folder=tmp_path).test) == 5
    assert len(load_data("here/all.npz", folder=tmp_path).train) == 20


def test_folder_of_torch_files_without_a_test_part_is_split_by_class(tmp_path: Path) -> None:
    inputs, targets = (torch.from_numpy(array) for array in arrays(40, 4))
    torch.save((inputs, targets), tmp_path / "data.pt")
    first, again, other = (load_data(str(tmp_path), seed=seed) for seed in (0, 0, 1))
    assert first.test.tensors[1].bincount().tolist() == [2, 2, 2, 2] and len(first.train) == 32
    rows = {tuple(row.tolist()) for part in (first.train, first.test) for row in part.tensors[0]}
    assert rows == {tuple(row.tolist()) for row in inputs.float()}
    assert torch.equal(first.test.tensors[0], again.test.tensors[0])
    assert not torch.equal(first.test.tensors[0], other.test.tensors[0])
    torch.save({"inputs": inputs, "targets": inputs[:, 0]}, tmp_path / "data.pt")
    regression = load_data(str(tmp_path))
    assert regression.classes is None and len(regression.test) == 8


@pytest.mark.parametrize("parts", [("train", "test"), ("",)])
def test_folder_of_images(tmp_path: Path, parts: tuple[str, ...]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 3, 4), dtype=np.uint8)
    for part in parts:
        for label, name in enumerate(("ant", "bee")):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(5):
                Image.fromarray(pixels[label]).save(tmp_path / part / name / f"{index}.png")
    split = load_data(str(tmp_path))
    assert (len(split.train), len(split.test), split.classes) == ((10, 10, 2) if parts[0] else (8, 2, 2))
    for image, label in split.test:
        assert torch.equal(image, torch.from_numpy(pixels[label])[None].float() / 255)


def test_color_deep_and_numpy_images(tmp_path: Path) -> None:
    color = np.random.default_rng(2).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    deep = np.full((4, 5), 65535, dtype=np.uint16)
    for name, write in {
        "color": lambda file: Image.fromarray(color).save(file),
        "deep": lambda file: Image.fromarray(deep).save(file),
    }.items():
        folder = tmp_path / name
        for part in ("train", "test"):
            (folder / part / "only").mkdir(parents=True)
            write(folder / part / "only" / "0.png")
    assert torch.equal(load_data(str(tmp_path / "color")).test.tensors[0][0], torch.from_numpy(color).permute(2, 0, 1) / 255)
    assert load_data(str(tmp_path / "deep")).test.tensors[0].unique().tolist() == [1.0]
    (tmp_path / "array" / "a").mkdir(parents=True)
    for index in range(4):
        np.save(tmp_path / "array" / "a" / f"{index}.npy", np.full((2, 6, 7), -2.5))
    assert load_data(str(tmp_path / "array")).train.tensors[0].shape == (3, 2, 6, 7)
    assert load_data(str(tmp_path / "array")).train.tensors[0].unique().tolist() == [-2.5]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("was_run"),)


def refuse_nothing(folder: Path) -> None: ...


def refuse_unknown_layout(folder: Path) -> None:
    (folder / "notes.txt").write_text("")


def refuse_two_kinds(folder: Path) -> None:
    np.savez(folder / "train.npz", inputs=[[1.0]], targets=[0])
    torch.save((torch.ones(1, 1), torch.ones(1)), folder / "train.pt")


def refuse_other_arrays(folder: Path) -> None:
    np.savez(folder / "train.npz", alpha=[1.0], beta=[0])


def refuse_lengths(folder: Path) -> None:
    np.savez(folder / "train.npz", inputs=np.zeros((3, 1)), targets=np.zeros(2))


def refuse_nan(folder: Path) -> None:
    np.savez(folder / "train.npz", inputs=[[1.0], [np.nan]], targets=[0, 1])


def refuse_shapes(folder: Path) -> None:
    for name, width in (("train", 2), ("test", 3)):
        np.savez(folder / f"{name}.npz", inputs=np.zeros((4, width)), targets=np.zeros(4))


def refuse_one_sample(folder: Path) -> None:
    np.savez(folder / "train.npz", inputs=[[1.0]], targets=[0])


def refuse_damaged(folder: Path) -> None:
    (folder / "train.npz").write_bytes(b"PK not a zip")


def refuse_objects(folder: Path) -> None:
    np.savez(folder / "train.npz", inputs=np.array([Evil()], dtype=object), targets=[0])


def refuse_pickle(folder: Path) -> None:
    torch.save({"inputs": Evil(), "targets": torch.zeros(1)}, folder / "train.pt")


def refuse_image(folder: Path) -> None:
    (folder / "cat").mkdir()
    (folder / "cat" / "0.png").write_bytes(b"no image")


def refuse_image_sizes(folder: Path) -> None:
    (folder / "cat").mkdir()
    for size in (2, 3):
        np.save(folder / "cat" / f"{size}.npy", np.zeros((size, size)))


def refuse_other_classes(folder: Path) -> None:
    for part, name in (("train", "cat"), ("test", "dog")):
        (folder / part / name).mkdir(parents=True)
        np.save(folder / part / name / "0.npy", np.zeros((2, 2)))


def refuse_no_images(folder: Path) -> None:
    (folder / "cat").mkdir()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (refuse_nothing, "with nothing in it; give it train.npz"),
        (refuse_unknown_layout, "with notes.txt in it; give it train.npz"),
        (refuse_two_kinds, "has train.npz and train.pt; keep one"),
        (refuse_other_arrays, "has alpha, beta; rename"),
        (refuse_lengths, r"inputs of shape \(3, 1\) and targets of shape \(2,\)"),
        (refuse_nan, "NaN or infinity"),
        (refuse_shapes, r"\(2,\) to train on and \(3,\) to test on"),
        (refuse_one_sample, "at least 2 samples"),
        (refuse_damaged, "readable without pickle"),
        (refuse_objects, "readable without pickle"),
        (refuse_pickle, "readable without pickle"),
        (refuse_image, "images that can be read.*0.png"),
        (refuse_image_sizes, r"\(1, 2, 2\) and \(1, 3, 3\)"),
        (refuse_other_classes, "has 'dog' and the other has not"),
        (refuse_no_images, "has none"),
    ],
)
def test_folders_that_cannot_be_read_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make, words: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words) as error:
        load_data("data")
    one_line(error)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("digts", "got 'digts'; did you mean 'digits'?"),
        ("no/such/folder", "there is no '.*no/such/folder'"),
        ("no_such_module:load", "there is no 'no_such_module'"),
        ("math:hypo", "'hypo' is not there; did you mean 'math:hypot'"),
        ("math:pi", "'pi' is not a function"),
    ],
)
def test_specs_that_name_nothing(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        load_data(spec)
    one_line(error)


def test_arguments_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no arguments for 'digits', but got size"):
        load_data("digits", {"size": 3})
    with pytest.raises(ValueError, match="no arguments for a folder, but got size"):
        load_data(str(tmp_path), {"size": 3})


USER_MODULE = """
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset
from simulator.data import DataSplit


class Squares(Dataset):
    def __len__(self): return 6
    def __getitem__(self, index): return torch.tensor([float(index)]), index % 3


def pairs(count=8): return (torch.rand(count, 2), torch.arange(count) % 4), (torch.rand(4, 2).numpy(), torch.arange(4).numpy())
def sets(): return TensorDataset(torch.zeros(4, 1), torch.zeros(4)), Squares()
def loaders(): return [DataLoader(Squares(), batch_size=4)] * 2
def batches(): return [[(torch.zeros(2, 1), torch.zeros(2))], [(torch.zeros(3, 1), torch.zeros(3))] * 3]
def split(): return DataSplit([], [], 3, "own")
def generators(): return (x for x in ()), (x for x in ())
def alone(): return torch.zeros(3)
def needs(count): return pairs(count)
"""


@pytest.fixture
def user(tmp_path: Path) -> Path:
    (tmp_path / "user_data_module.py").write_text(USER_MODULE)
    yield tmp_path
    sys.path[:] = [place for place in sys.path if place != str(tmp_path.resolve())]
    sys.modules.pop("user_data_module", None)


def test_functions_of_the_user(user: Path) -> None:
    state = torch.get_rng_state()

    def load(name: str, **arguments: object) -> DataSplit:
        return load_data(f"user_data_module:{name}", arguments, folder=user)

    pairs = load("pairs", count=12)
    assert (len(pairs.train), len(pairs.test), pairs.classes, pairs.name) == (12, 4, 4, "pairs")
    assert torch.equal(pairs.train.tensors[0], load("pairs", count=12).train.tensors[0])
    assert torch.equal(state, torch.get_rng_state())
    sets = load("sets")
    assert sets.classes is None and sets.test.tensors[1].tolist() == [0, 1, 2, 0, 1, 2]
    assert isinstance(load("loaders").train_batches(), DataLoader)
    assert [len(y) for _, y in load("batches").test_batches()] == [3, 3, 3]
    assert load("split").name == "own"


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("generators", {}, "is a generator; return a list"),
        ("alone", {}, "returned Tensor; return"),
        ("needs", {}, "missing a required argument: 'count'"),
        ("pairs", {"cuont": 3}, "unexpected keyword argument 'cuont'"),
    ],
)
def test_functions_of_the_user_that_do_not_fit(user: Path, name: str, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        load_data(f"user_data_module:{name}", arguments, folder=user)
    one_line(error)


def test_a_module_that_needs_another(tmp_path: Path) -> None:
    (tmp_path / "needs_another_module.py").write_text("import surely_not_installed")
    with pytest.raises(ValueError, match="needs 'surely_not_installed', which is not installed") as error:
        load_data("needs_another_module:f", folder=tmp_path)
    one_line(error)
    sys.path.remove(str(tmp_path.resolve()))


class ClassLabel: ...


class Picture: ...


Picture.__name__ = "Image"


class Columns(dict):
    features: dict[str, object]

    def __init__(self, images: list[object], labels: list[int]) -> None:
        super().__init__(idx=list(range(len(labels))), img=images, label=labels)
        self.features = {"idx": None, "img": Picture(), "label": ClassLabel()}


def hugging_face(monkeypatch: pytest.MonkeyPatch, result: object) -> list[tuple[str, dict[str, object]]]:
    """Stand in for the package: what it is called with, and what it then returns or raises."""
    calls: list[tuple[str, dict[str, object]]] = []

    def load_dataset(name: str, **options: object) -> object:
        calls.append((name, options))
        if isinstance(result, Exception):
            raise result
        return result

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_hugging_face_data(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(np.full((4, 4), 51, dtype=np.uint8))
    part = Columns([image, image], [1, 0])
    calls = hugging_face(monkeypatch, {"train": part, "validation": Columns([image], [2])})
    split = load_data("hf:some/name", {"revision": "abc"})
    assert calls == [("some/name", {"revision": "abc"})]
    assert split.train.tensors[0].shape == (2, 1, 4, 4) and split.train.tensors[0].unique().tolist() == [pytest.approx(0.2)]
    assert split.test.tensors[1].tolist() == [2] and (split.classes, split.name) == (3, "hf:some/name")
    by_name = load_data("hf:some/name", {"inputs": "idx", "targets": "idx", "test": "train"})
    assert by_name.test.tensors[0].tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"`inputs` must be a column of 'hf:some/name' \(idx, img, label\), but got 'image'"):
        load_data("hf:some/name", {"inputs": "image"})
    with pytest.raises(ValueError, match="`test` must be a split of"):
        load_data("hf:some/name", {"test": "tset"})


def test_hugging_face_data_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    hugging_face(monkeypatch, ConnectionError("Couldn't reach the hub\nand a long story"))
    with pytest.raises(ValueError, match=r"could not be loaded: Couldn't reach the hub; check the name and the network") as error:
        load_data("hf:some/name")
    one_line(error)
    hugging_face(monkeypatch, {"test": Columns([], [])})
    with pytest.raises(ValueError, match="a split called train"):
        load_data("hf:some/name")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"not installed; run pip install 'inloop\[data\]'") as error:
        load_data("hf:some/name")
    one_line(error)
