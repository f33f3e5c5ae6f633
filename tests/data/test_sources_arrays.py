from __future__ import annotations

import itertools
import os
import pickle

import numpy as np
import pytest

from contextae.data import deep, each
from contextae.data.decode import decode
from contextae.data.facts import BadImage, Unsupported
from contextae.data.images import load_images
from contextae.data.sources import arrays, numpy_files, open_index
from contextae.data.sources.arrays import facts_of_array, list_arrays, stack_layout
from contextae.data.sources.find import list_source
from contextae.data.sources.mixed import list_mixed
from contextae.data.sources.numpy_files import list_numpy
from contextae.data.sources.open import index_of
from contextae.errors import UserError
from data.array_files import SIZES, STACK, reads, saved
from data.in_process import open_here
from data.pictures import write


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CONTEXTAE_CACHE", str(tmp_path / "cache"))


LAYOUTS = {
    "nhwc": STACK,
    "nchw": np.ascontiguousarray(STACK.transpose(0, 3, 1, 2)),
    "nhw": np.ascontiguousarray(STACK[:, :, :, 0]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_stack_is_read_by_its_sizes_or_by_its_named_axes(tmp_path, layout: str, order: str) -> None:
    wanted = STACK if layout != "nhw" else STACK[:, :, :, :1]
    path = saved(tmp_path / "a.npy", np.asarray(LAYOUTS[layout], order=order))
    for listing in (
        list_numpy(path, "a"),
        list_numpy(path, "a", wanted=layout),
        list_arrays(LAYOUTS[layout], name="a.npy"),
    ):
        assert listing.ids == [f"a.npy#{i}" for i in range(7)]
        assert np.array_equal(reads(listing), wanted)
        facts = listing.source.probe("a.npy#6")
        assert (facts.height, facts.width, facts.channels) == wanted.shape[1:]
        assert facts.num_bytes == wanted[0].nbytes and facts.format == "array"
        assert facts.kind == ("gray" if layout == "nhw" else "RGB") and facts.photograph
        found = listing.source.read("a.npy#3")
        assert type(found) is np.ndarray and found.flags.c_contiguous and found.flags.writeable
    axes = {
        "nhwc": "images, height, width, channels",
        "nchw": "images, channels, height, width",
        "nhw": "images, height, width",
    }
    assert listing.notes == [f"its axes {' x '.join(map(str, LAYOUTS[layout].shape))} are {axes[layout]}"]
    for source in (listing.source, list_numpy(path, "a").source):
        assert [source.has(f"{name}") for name in ("a.npy#6", "a.npy#7", "b.npy#1", "a.npy#x", "a")] == [True] + [
            False
        ] * 4
    with pytest.raises(KeyError):
        listing.source.read("b.npy#3")
    with pytest.raises(KeyError):
        list_numpy(path, "a").source.read("b.npy#3")
    with pytest.raises(KeyError):
        list_numpy(path, "a").source.read("a.npy#7")


@pytest.mark.parametrize("dtype", ["<u1", "<u2", ">u2", "<f4", ">f4", "<f2", "|b1", "<i2", ">i4", "<i8", "<u4", "<f8"])
def test_numbers_come_out_as_one_of_three_types_with_their_values(tmp_path, dtype: str) -> None:
    values = (STACK[:, :, :, :2] > 99) if dtype == "|b1" else STACK[:, :, :, :2].astype(dtype)
    listing = list_numpy(saved(tmp_path / "a.npy", values), "a")
    found = reads(listing)
    assert str(found.dtype) == listing.source.probe("a.npy#0").dtype == deep.stored_as(np.dtype(dtype))
    assert np.array_equal(found, values * (255 if dtype == "|b1" else 1)) and found.dtype.isnative
    index = index_of(listing, "auto", None)
    assert index.channels == 2 and index.dtype == str(found.dtype)
    assert np.array_equal(decode(index.read(4), channels=2, dtype=index.dtype), found[4])


def test_numbers_that_would_change_are_refused_and_others_are_not(tmp_path) -> None:
    tiny = np.zeros((3, 9, 11))
    for value, dtype, good in (
        (2**24, np.int64, True),
        (2**24 + 1, np.int64, False),
        (-(2**24) - 1, np.int32, False),
        (2**63, np.uint64, False),
        (0.5, np.float64, True),
        (np.nan, np.float64, True),
        (np.inf, np.float64, True),
        (0.1, np.float64, False),
        (1e300, np.float64, False),
    ):
        array = tiny.astype(dtype)
        array[1, 5, 6] = value
        for make in (
            lambda array=array: list_numpy(saved(tmp_path / "a.npy", array), "a"),
            lambda array=array: list_arrays(array),
        ):
            if good:
                make()
                continue
            with pytest.raises(
                UserError,
                match=rf"(a\.npy|The array array) holds {array.dtype} that float32 cannot hold exactly, first in "
                r"image 1\. Nothing is rounded unasked: save array\.astype\(numpy\.float32\), or whole numbers of at "
                r"most 16 bits\.$",
            ):
                make()
    bad = tiny.astype(np.float32)
    bad[2, 0, 0] = np.nan
    listing = list_numpy(saved(tmp_path / "b.npy", bad), "b")
    assert listing.source.read("b.npy#1").shape == (9, 11, 1)
    with pytest.raises(BadImage, match="values that are not finite"):
        listing.source.read("b.npy#2")


@pytest.mark.parametrize(
    "array", [np.zeros((2, 9, 9), np.complex64), np.zeros((2, 9, 9), "S3"), np.zeros((2, 9, 9), "M8[s]")]
)
def test_what_is_no_number_is_refused(tmp_path, array: np.ndarray) -> None:
    with pytest.raises(
        UserError, match=r"a\.npy holds .*, and images are whole or real numbers\. Save it as one of uint8"
    ):
        list_numpy(saved(tmp_path / "a.npy", array), "a")


def test_python_objects_are_never_loaded(tmp_path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(
        UserError, match=r"a\.npy holds Python objects, which are never loaded, as that could run what they"
    ):
        list_numpy(tmp_path / "a.npy", "a")
    np.savez(tmp_path / "b.npz", a=np.array([Trap()], dtype=object))
    for wanted in (None, "a"):
        with pytest.raises(UserError, match=r"holds no arrays that may be images|holds Python objects"):
            list_numpy(tmp_path / "b.npz", "b", wanted=wanted)
    assert not (tmp_path / "ran").exists()


def test_which_axis_is_the_channels() -> None:
    found = {}
    for second, last in itertools.product(SIZES, SIZES):
        try:
            found[second, last] = stack_layout((9, second, 77, last), None, "x", "Say")
        except UserError:
            found[second, last] = "refused"
    assert [found[second, 3] for second in SIZES] == ["refused"] * 3 + ["nhwc"] * 4
    assert [found[second, 5] for second in SIZES] == ["nchw"] * 3 + ["refused"] * 2 + ["nhwc"] * 2
    assert [found[second, 32] for second in SIZES] == ["nchw"] * 3 + ["refused"] * 2 + ["nhwc"] * 2
    assert [found[second, 33] for second in SIZES] == ["nchw"] * 5 + ["refused"] * 2
    for shape, layout in (
        ((60000, 28, 28), "nhw"),
        ((9, 28, 28, 1), "nhwc"),
        ((9, 3, 32, 32), "nchw"),
        ((9, 64, 64, 13), "nhwc"),
    ):
        assert stack_layout(shape, None, "x", "Say") == layout
        single = deep.array_layout(shape[1:], np.dtype("u1"), lambda: STACK)  # the rule for a .npy file of one image
        assert (single.height, single.width, single.colours) == arrays.image_shape(shape[1:], layout)


def test_axes_that_leave_a_doubt_are_refused_and_can_be_named(tmp_path) -> None:
    path = saved(tmp_path / "a.npy", np.zeros((9, 16, 17, 16), np.uint8))
    with pytest.raises(
        UserError,
        match=r"a\.npy has the axes 9 x 16 x 17 x 16, of which the second or the last may be channels: one of at most "
        r"32, or else one of at most 4, where the other is larger\. Give .*a\.npy::nchw or .*a\.npy::nhwc"
        r"\.$",
    ):
        list_numpy(path, "a")
    assert list_numpy(path, "a", wanted="nchw").source.read("a.npy#0").shape == (17, 16, 16)
    assert list_numpy(path, "a", wanted="nhwc").source.read("a.npy#0").shape == (16, 17, 16)
    path = saved(tmp_path / "b.npy", np.zeros((480, 640, 3), np.uint8))
    with pytest.raises(
        UserError, match=r"b\.npy has the axes 480 x 640 x 3, which look like one image in colours rather"
    ):
        list_numpy(path, "b")
    assert list_numpy(path, "b", wanted="nhw").source.read("b.npy#0").shape == (640, 3, 1)
    with pytest.raises(
        UserError, match=r"b\.npy has 3 axes, 480 x 640 x 3, and cannot be nchw\. A stack of images is nhw,"
    ):
        list_numpy(path, "b", wanted="nchw")
    for shape, words in (
        ((5,), "It has 1: 5"),
        ((), "It has 0: a single number"),
        ((2, 3, 4, 5, 6), "It has 5: 2 x 3 x"),
    ):
        with pytest.raises(UserError, match=rf"must have 3 axes \(images, height, width\) or 4 .* {words}"):
            list_numpy(saved(tmp_path / "c.npy", np.zeros(shape, np.uint8)), "c")
    for shape in ((0, 9, 9), (9, 0, 9), (9, 0, 9, 3)):
        with pytest.raises(UserError, match=r"holds no images: its axes are "):
            list_numpy(saved(tmp_path / "d.npy", np.zeros(shape, np.uint8)), "d")


def test_facts_of_arrays_are_those_of_files() -> None:
    facts = facts_of_array((5, 7, 4), np.dtype(">u2"))
    assert (facts.height, facts.width, facts.channels, facts.dtype, facts.photograph) == (5, 7, 4, "uint16", False)
    assert facts.kind == "4 x 16-bit" and facts.num_bytes == 5 * 7 * 4 * 2
    assert facts_of_array((5, 7, 1), np.dtype("f8")).kind == "float gray"
    with pytest.raises(Unsupported, match="65 channels, more than 64"):
        facts_of_array((5, 7, 65), np.dtype("u1"))
    with pytest.raises(BadImage, match="the limit against decompression bombs"):
        facts_of_array((100_000, 100_000, 3), np.dtype("u1"))


def test_arrays_of_different_sizes_in_memory() -> None:
    images = [STACK[0], STACK[1, :9, :, 0], np.zeros((2, 40, 50), np.uint16)]
    listing = list_arrays(images, name="mine")
    assert listing.ids == ["mine#0", "mine#1", "mine#2"] and listing.title == "the arrays of mine"
    source = pickle.loads(pickle.dumps(listing.source))  # noqa: S301  made here
    assert [source.read(sample_id).shape for sample_id in listing.ids] == [(11, 13, 3), (9, 13, 1), (40, 50, 2)]
    assert [source.probe(sample_id).dtype for sample_id in listing.ids] == ["uint8", "uint8", "uint16"]
    assert np.array_equal(list_arrays([STACK[0]], layout="nchw").source.read("array#0"), STACK[0].transpose(1, 2, 0))


def test_what_is_given_in_memory_must_be_arrays(monkeypatch) -> None:
    for given, words in (
        ("x", r"^mine must be a NumPy array, or a list of such arrays\. Got str; numpy\.asarray makes"),
        (
            [STACK[0], [1]],
            r"^Each image of mine must be a NumPy array\. Number 1 is of type list; numpy\.asarray makes",
        ),
        ([], r"^mine holds no images: the list is empty\.$"),
        ([STACK], r"^Array 0 of mine must have 2 axes \(height, width\) or 3 .* It has 4\. Give one stack, or a list"),
        (
            [STACK[0, :, :, 0], np.zeros((8, 9, 8))],
            r"^Array 1 of mine has the axes 1 x 8 x 9 x 8, .* Give layout=nchw or",
        ),
        (np.zeros((8, 8, 9, 8)), r"^The array mine has the axes 8 x 8 x 9 x 8, .* Give layout=nchw or layout=nhwc\.$"),
        ([np.zeros((0, 3))], r"^Array 0 of mine holds no images: its axes are 1 x 0 x 3\.$"),
        ([np.full((5, 6), 0.1)], r"^Array 0 of mine holds float64 that float32 cannot hold exactly"),
    ):
        with pytest.raises(UserError, match=words):
            list_arrays(given, name="mine")
    assert len(list_arrays(STACK).notes) == 1
    monkeypatch.setattr(arrays, "LARGE", 3000)
    assert list_arrays(STACK).notes[1] == (
        "3.0 kB of arrays are copied to each loader process; saved as a .npy file, they would be shared"
    )


@pytest.fixture
def _no_processes(monkeypatch) -> None:
    """Images are looked at in this process; the one that lists files is none of these."""

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a process was started for images that need none")

    each.STANDBY.close()
    monkeypatch.setattr(each, "Pool", started)
    monkeypatch.setattr(each.Standby, "take", started)


@pytest.mark.usefixtures("_no_processes")
def test_arrays_are_looked_at_without_processes_of_their_own(tmp_path, monkeypatch) -> None:
    open_here(monkeypatch)
    path = saved(tmp_path / "a.npy", STACK)
    built_in = "builtin:fashion-mnist"
    for source in (built_in, STACK, [STACK[0], STACK[1, :9]], str(path), [str(path), built_in]):
        index = open_index(source)
        loaded = load_images(index.subset(range(2)), (9, 9))
        assert loaded.images.shape == (2, index.channels, 9, 9) and not loaded.left_out


@pytest.mark.usefixtures("_no_processes")
def test_values_are_looked_at_there_as_well(tmp_path, monkeypatch) -> None:
    open_here(monkeypatch)
    images = STACK.astype(np.float32)
    images[2, 3, 4, 1], images[5, 0, 0, 0] = np.nan, -np.inf
    for source in (images, str(saved(tmp_path / "a.npy", images))):
        loaded = load_images(open_index(source), (9, 9), value_range=(0.0, 255.0))
        assert [(bad.position, bad.reason) for bad in loaded.left_out] == [
            (2, "values that are not finite"),
            (5, "values that are not finite"),
        ]
        assert loaded.positions.tolist() == [0, 1, 3, 4, 6]
    for bad in (np.array([STACK, 1], object), np.array([b"x", b"y"])):
        with pytest.raises(UserError, match=r"The array array "):
            open_index(bad)


def test_large_stacks_are_shared_out_among_processes(tmp_path, monkeypatch) -> None:
    source = list_numpy(saved(tmp_path / "a.npy", STACK), "a").source
    assert source.arrays
    photographs = write(tmp_path / "b" / "0.png")
    mixed = list_mixed([str(tmp_path / "a.npy"), str(photographs.parent)], list_source)
    assert not mixed.source.arrays
    monkeypatch.setattr(numpy_files, "SMALL", STACK.nbytes - 1)
    assert not source.arrays
