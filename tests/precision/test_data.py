"""Calibration data of every kind of source: the batches a model gets, and what is said of bad input."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from temper.errors import ConfigError, DataError
from temper.ir.dims import Dim
from temper.ir.types import TensorType
from temper.precision.data import Samples, samples_of, split
from temper.precision.images import Preprocess

N = Dim.symbol("N")
ONE = {"x": TensorType("float32", (1, 3, 4, 4))}
FOUR = {"x": TensorType("float32", (4, 3, 4, 4))}
OPEN = {"x": TensorType("float32", (N, 3, 4, 4))}
X = np.random.default_rng(0).standard_normal((10, 3, 4, 4)).astype(np.float32)


def together(samples: Samples, name: str = "x") -> np.ndarray:
    return np.concatenate([b[name] for b in samples])


class FromBatches:
    """As TensorRT's calibrators give data."""

    def __init__(self) -> None:
        self.left = [X[i : i + 1] for i in range(10)]

    def get_batch_size(self) -> int:
        return 1

    def get_batch(self, names: list[str]) -> list[np.ndarray] | None:
        assert names == ["x"]
        return [self.left.pop(0)] if self.left else None


def generator() -> Iterator[np.ndarray]:
    yield from (X[i : i + 1] for i in range(10))


def source(kind: str, folder: Path) -> Any:
    if kind == "npz":
        np.savez(folder / "a.npz", x=X, labels=np.arange(10))
        return folder / "a.npz"
    if kind == "compressed npz with another name":
        np.savez_compressed(folder / "a.npz", arr_0=X)
        return str(folder / "a.npz")
    if kind == "npy":
        np.save(folder / "a.npy", X)
        return folder / "a.npy"
    if kind == "folder of npz":
        (folder / "parts").mkdir()
        for i in range(5):
            np.savez(folder / "parts" / f"{i}.npz", x=X[2 * i : 2 * i + 2])
        return folder / "parts"
    if kind == "script":
        np.save(folder / "a.npy", X)
        (folder / "own_helper.py").write_text("NAME = 'a.npy'\n")
        (folder / "calib.py").write_text(
            "import numpy as np, pathlib, own_helper\n"
            "def batches():\n"
            "    for x in np.load(pathlib.Path(__file__).with_name(own_helper.NAME)):\n"
            "        yield {'x': x[None]}\n"
        )
        return f"{folder / 'calib.py'}:batches"
    return {
        "array": X,
        "dict": {"x": X},
        "list of batches": [X[i : i + 1] for i in range(10)],
        "list of samples": list(X),
        "list of dicts": [{"x": x[None]} for x in X],
        "list of tuples": [(x[None],) for x in X],
        "uneven list": [X[:3], X[3:4], X[4:]],
        "generator": generator(),
        "function": generator,
        "calibrator": FromBatches(),
    }[kind]


KINDS = (
    "npz,compressed npz with another name,npy,folder of npz,script,array,dict,list of batches,list of samples,"
    "list of dicts,list of tuples,uneven list,generator,function,calibrator"
).split(",")


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_batches(kind: str, tmp_path: Path) -> None:
    found = samples_of(source(kind, tmp_path), ONE)
    assert (len(found), found.count, found.synthetic) == (10, 10, False)
    assert len(set(found.names)) == 10
    for _ in range(2):  # one-shot sources too can be read again
        assert np.array_equal(together(found), X)
    assert found.digest == samples_of(X, ONE).digest


@pytest.mark.parametrize("kind", ["npz", "list of samples", "uneven list", "generator"])
def test_samples_are_joined_to_the_models_batch(kind: str, tmp_path: Path) -> None:
    found = samples_of(source(kind, tmp_path), FOUR)
    assert [b["x"].shape[0] for b in found] == [4, 4]
    assert np.array_equal(together(found), X[:8])
    assert any("last 2 samples were left out" in r for r in found.remarks)
    assert [len(p.samples) for p in found.kept] == [4, 4]


def test_open_batch_takes_the_profiles_size() -> None:
    found = samples_of(X, OPEN, [{"N": (1, 4, 8)}])
    assert [b["x"].shape[0] for b in found] == [4, 4, 2]
    assert [b["x"].shape[0] for b in samples_of(X, OPEN, [{"N": (3, 3, 4)}])] == [3, 3, 3]
    inputs = {"x": TensorType("float32", (N, 3)), "y": TensorType("float32", (1,))}
    with pytest.raises(DataError, match=r"N = 2, which is outside of the profiles \(N 4\.\.8\)"):
        samples_of([{"x": np.ones((2, 3), np.float32), "y": np.ones(1, np.float32)}], inputs, [{"N": (4, 4, 8)}])


def test_sizes_may_vary_where_they_are_open() -> None:
    s = Dim.symbol("S")
    inputs = {"ids": TensorType("int64", (1, s)), "mask": TensorType("int64", (1, s))}
    items = [{"ids": np.ones((1, n), np.int64), "mask": np.ones((1, n), np.int64)} for n in (3, 9, 5)]
    found = samples_of(items, inputs, [{"S": (1, 8, 16)}])
    assert [b["ids"].shape for b in found] == [(1, 3), (1, 9), (1, 5)]
    with pytest.raises(DataError, match=r"'mask' is int64\[1, S\], the data \[1, 4\], where S would be 4 and 3"):
        samples_of([{"ids": np.ones((1, 3), np.int64), "mask": np.ones((1, 4), np.int64)}], inputs)


def test_inputs_without_a_common_batch_take_one_more_axis() -> None:
    inputs = {"x": TensorType("float32", (1, 4)), "state": TensorType("float32", (2, 1, 3))}
    found = samples_of({"x": np.zeros((5, 1, 4), np.float32), "state": np.ones((5, 2, 1, 3), np.float32)}, inputs)
    assert len(found) == 5
    assert found[4]["state"].shape == (2, 1, 3)


@pytest.mark.parametrize(
    ("dtype", "want", "says"),
    [
        ("float64", "float32", "rounded to float32"),
        ("float16", "float32", "rounded to float32"),
        ("uint8", "float32", "without scaling"),
        ("int64", "int32", "every value fits"),
        ("int32", "int64", "every value fits"),
    ],
)
def test_safe_conversions_are_made_and_said(dtype: str, want: str, says: str) -> None:
    found = samples_of(np.arange(6).reshape(2, 3).astype(dtype), {"x": TensorType(want, (1, 3))})
    assert found[1]["x"].dtype == want
    assert found[1]["x"].tolist() == [[3, 4, 5]]
    assert any(says in r for r in found.remarks)


@pytest.mark.parametrize(
    ("array", "want", "says"),
    [
        (np.array([[1.5]]), "int64", "convert it"),
        (np.array([[1 << 40]]), "int32", "cannot hold"),
        (np.array([[(1 << 24) + 1]]), "float32", "cannot hold exactly"),
        (np.array([["a"]]), "float32", "convert it"),
        (np.array([[1j]]), "float32", "convert it"),
        (np.array([[1e300]]), "float32", "1 infinite of 1 values"),
    ],
)
def test_unsafe_conversions_are_refused(array: np.ndarray, want: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        samples_of([array], {"x": TensorType(want, (1, 1))})


def test_not_finite_names_sample_and_input() -> None:
    bad = X.copy()
    bad[3, 0, 0, :2] = np.nan, np.inf
    with pytest.raises(DataError, match=r"1 of 10 samples .*\[3\]: input 'x' has 1 NaN and 1 infinite of 48 values"):
        samples_of(bad, ONE)
    found = samples_of(bad, ONE, skip_bad=True)
    assert len(found) == 9
    assert list(found.skipped) == ["the calibration data[3]"]
    assert any("1 unusable samples were left out" in r for r in found.remarks)
    with pytest.raises(DataError, match=r"\[3\]: input 'x'"):
        samples_of(bad[:4], FOUR)  # of a whole batch, too


class Elsewhere:
    """As PyTorch's tensors on a GPU answer numpy."""

    def __array__(self, *args: Any, **named: Any) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "needs calibration data"),
        ([], "there is no data"),
        (iter(()), "there is no data"),
        (np.zeros((0, 3, 4, 4), np.float32), "the data \\[0, 3, 4, 4\\]"),
        (X[:, :2], r"10 of 10 samples .* 'x' is float32\[1, 3, 4, 4\], the data \[1, 2, 4, 4\]"),
        ({"y": X}, "no array for input 'x'; it holds y"),
        ([{"y": X[:1]}], "no array for input 'x'; it holds y"),
        ([(X[:1], X[:1])], "it is 2 arrays, the model's inputs are x"),
        ([None], "neither an array nor a dict"),
        ([[140737488355328]], "addresses on a GPU, which TensorRT takes"),
        ([Elsewhere()], "cannot be had as a numpy array: can't convert cuda:0"),
        (3, "is a int"),
        ("nowhere.npz", "there is no calibration data at nowhere.npz"),
        ("nowhere.py:f", "there is no file nowhere.py"),
        ((1 // 0 for _ in range(2)), "raised ZeroDivisionError"),
    ],
)
def test_bad_data(data: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        samples_of(data, ONE)


def test_bad_data_without_end() -> None:
    with pytest.raises(DataError, match=r"1000 of 1000 samples cannot be used: .*the data \[\]"):
        samples_of((3 for _ in iter(int, 1)), {"x": TensorType("float32", (1, 4))})


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"")
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 cut off")
    (tmp_path / "c.txt").write_text("x")
    np.savez(tmp_path / "d.npz", x=np.array([None, 1], object), allow_pickle=True)
    for name in ("a.npz", "b.npz", "d.npz"):
        with pytest.raises(DataError, match=f"{name}: cannot be read as arrays"):
            samples_of(tmp_path / name, ONE)
    with pytest.raises(DataError, match="is not calibration data"):
        samples_of(tmp_path / "c.txt", ONE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither pictures nor .npz files"):
        samples_of(tmp_path / "empty", ONE)


def test_scripts_that_fail(tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text("def batches():\n    yield from [1, 2][5]\nvalue = 3\n")
    with pytest.raises(DataError, match=r"own.py:batches raised IndexError: .*\(own.py, line 2\)"):
        samples_of(f"{script}:batches", ONE)
    with pytest.raises(DataError, match="defines no function 'other'; it has batches"):
        samples_of(f"{script}:other", ONE)
    script.write_text("import no_such_module_at_all\n")
    with pytest.raises(DataError, match=r"raised ModuleNotFoundError: .*\(own.py, line 1\)"):
        samples_of(f"{script}:batches", ONE)


def test_random_data_only_when_asked_for() -> None:
    inputs = {"x": TensorType("float32", (N, 3)), "ids": TensorType("int64", (N, 2)), "on": TensorType("bool", (1,))}
    found = samples_of("random:5", inputs, [{"N": (1, 4, 8)}])
    assert found.synthetic
    assert any("random numbers" in r for r in found.remarks)
    assert [(b["x"].shape, b["ids"].shape, b["on"].shape) for b in found] == [((4, 3), (4, 2), (1,))] * 5
    assert found.digest == samples_of("random:5", inputs, [{"N": (1, 4, 8)}]).digest
    with pytest.raises(ConfigError, match="random:32"):
        samples_of("random:many", inputs)


def test_split_is_interleaved_and_deterministic() -> None:
    samples = samples_of(X, ONE)
    calibration, held = split(samples)
    assert held.names == tuple(samples.names[i] for i in (3, 7))
    assert calibration.names == tuple(n for i, n in enumerate(samples.names) if i not in (3, 7))
    few, last = split(samples.part(range(3)))
    assert (few.names, last.names) == (samples.names[:2], samples.names[2:3])
    alone, same = split(samples.part([0]))
    assert alone.names == same.names == samples.names[:1]
    assert any("one batch only" in r for r in alone.remarks)
    assert calibration.digest != held.digest != samples.digest


def test_limit() -> None:
    assert len(samples_of(X, ONE, limit=4)) == 4


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    inputs = {"x": TensorType("float32", (1, 100_000))}

    def peak(count: int) -> int:
        tracemalloc.start()
        found = samples_of((np.full((1, 100_000), i, np.float32) for i in range(count)), inputs)
        assert sum(float(b["x"][0, 0]) for b in found) == sum(range(count))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(48) < peak(4) + 400_000


# ---- pictures ----


def save_pictures(folder: Path, count: int = 6, size: tuple[int, int] = (8, 6)) -> list[np.ndarray]:
    from PIL import Image

    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 256, (size[1], size[0], 3), np.uint8) for _ in range(count)]
    for i, a in enumerate(arrays):
        Image.fromarray(a).save(folder / f"{i}.png")
    return arrays


@pytest.mark.parametrize("planes", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
def test_pictures_of_the_right_size(planes: bool, batch: int, tmp_path: Path) -> None:
    arrays = save_pictures(tmp_path / "images")
    shape = (batch, 3, 6, 8) if planes else (batch, 6, 8, 3)
    how = Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2,), order="BGR")
    found = samples_of(tmp_path / "images", {"x": TensorType("float32", shape)}, preprocess=how)
    want = (np.stack(arrays)[..., ::-1] / 255.0 - [0.5, 0.4, 0.3]) / 0.2
    want = want.transpose(0, 3, 1, 2) if planes else want
    assert len(found) == 6 // batch
    np.testing.assert_allclose(together(found), want, rtol=1e-5, atol=1e-6)
    assert found.names[0].startswith("0.png")


def test_pictures_are_made_to_fit(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 16:64] = 255  # what a square cut from the middle shows
    Image.fromarray(picture).save(tmp_path / "images" / "a.png")
    inputs = {"x": TensorType("float32", (1, 3, 20, 20))}

    def made(fit: str) -> np.ndarray:
        return samples_of(tmp_path / "images", inputs, preprocess=Preprocess(fit=fit))[0]["x"][0, 0]

    assert made("crop").min() == 1.0
    assert made("stretch")[:, 0].max() == 0.0 and made("stretch")[:, 10].min() == 1.0
    assert np.allclose(made("pad")[0], 114 / 255)
    assert made("pad")[10, 10] == 1.0


def test_grey_and_byte_inputs(tmp_path: Path) -> None:
    arrays = save_pictures(tmp_path / "images", 2)
    grey = samples_of(tmp_path / "images", {"x": TensorType("float32", (1, 1, 6, 8))})
    assert grey[0]["x"].shape == (1, 1, 6, 8) and 0 < grey[0]["x"].max() <= 1
    raw = samples_of(tmp_path / "images", {"x": TensorType("uint8", (1, 6, 8, 3))})
    assert np.array_equal(raw[1]["x"][0], arrays[1])


def test_pixels_of_more_than_8_bits(tmp_path: Path) -> None:
    """16 bits are scaled to 8; of floats and 32-bit integers nobody knows what white is."""
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    levels = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300
    Image.fromarray(levels).save(folder / "deep.png")
    inputs = {"x": TensorType("float32", (1, 3, 6, 8))}
    np.testing.assert_allclose(samples_of(folder, inputs)[0]["x"][0, 1], levels / 65535, rtol=0, atol=0.5 / 255 + 1e-6)
    for name, pixels in (("f.tiff", levels.astype(np.float32)), ("i.tiff", levels.astype(np.int32))):
        Image.fromarray(pixels).save(folder / name)
    with pytest.raises(DataError, match=r"2 of 3 .*f.tiff: its pixels are floats.*i.tiff: .* 32-bit integers"):
        samples_of(folder, inputs)


def test_default_preprocessing_is_said(tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", 2)
    inputs = {"x": TensorType("float32", (1, 3, 6, 8))}
    found = samples_of(tmp_path / "images", inputs)
    assert any("by the default (crop, RGB, (pixel * 1/255 - 0) / 1)" in r for r in found.remarks)
    told = samples_of(tmp_path / "images", inputs, preprocess=Preprocess())
    assert not any("default" in r for r in told.remarks)


def test_bad_pictures_are_named_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    save_pictures(folder, 4)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:80])
    (folder / "text.png").write_text("hello")
    (folder / "labels.csv").write_text("a,b\n")
    inputs = {"x": TensorType("float32", (1, 3, 6, 8))}
    with pytest.raises(DataError) as e:
        samples_of(folder, inputs)
    for part in ("3 of 7 samples", "empty.jpg: it is empty", "cut.png: ", "text.png: it is not a picture", "skip_bad"):
        assert part in str(e.value)
    found = samples_of(folder, inputs, skip_bad=True)
    assert (len(found), set(found.skipped)) == (4, {"empty.jpg", "cut.png", "text.png"})
    assert any("labels.csv" in r for r in found.remarks)
    for p in folder.glob("[0-9].png"):
        p.unlink()
    with pytest.raises(DataError, match="3 of 3 samples"):
        samples_of(folder, inputs, skip_bad=True)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"x": TensorType("float32", (1, 5, 6, 8))}, "no axis of 1 or 3 channels"),
        ({"x": TensorType("int64", (1, 3, 6, 8))}, "cannot be the input"),
        ({"x": TensorType("float32", (1, 3, N, N))}, "the size of pictures for 'x'"),
        ({"x": TensorType("float32", (1, 3, 6, 8)), "y": TensorType("float32", (1,))}, "data for one input"),
    ],
)
def test_models_that_take_no_pictures(inputs: dict[str, TensorType], says: str, tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", 1)
    with pytest.raises(ConfigError, match=re.escape(says)):
        samples_of(tmp_path / "images", inputs)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"std": (0.0,)}, "std not 0"),
        ({"mean": (float("nan"),)}, "finite"),
        ({"order": "GBR"}, "RGB or BGR"),
        ({"fit": "shrink"}, "crop, stretch, pad"),
        ({"scale": 0.0}, "scale"),
    ],
)
def test_preprocessing_that_makes_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Preprocess(**options)


def test_mean_of_another_number_of_channels(tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", 1)
    inputs = {"x": TensorType("float32", (1, 3, 6, 8))}
    with pytest.raises(ConfigError, match="mean has 2 values"):
        samples_of(tmp_path / "images", inputs, preprocess=Preprocess(mean=(1.0, 2.0)))
