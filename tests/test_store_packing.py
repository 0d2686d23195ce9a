"""Arrays to bytes and back, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stack_samples import assert_equal, bits, example

from ml4ad import Axis, HistogramStack
from ml4ad.stack import KINDS
from ml4ad.store import binning, blocks, packing

DTYPES = ["<f4", "<f8", "<i2", "<i4"]


@st.composite
def arrays(draw, shape):
    dtype = draw(st.sampled_from(DTYPES))
    if draw(st.booleans()):
        # Counts, as monitoring has them.
        top = draw(st.sampled_from([1, 255, 256, 32767]))
        return draw(hnp.arrays(dtype, shape, elements=st.integers(0, top)))
    # Any bit pattern: NaN payloads, infinities, -0.0, numbers that no float32 holds.
    raw = draw(hnp.arrays(f"<u{np.dtype(dtype).itemsize}", shape))
    return raw.view(dtype)


def unpacked(packed, name, shape):
    out = np.empty(shape, dtype=packed.dtype(name))
    packed.fill(name, out)
    return out


@given(st.data(), st.integers(1, 5), st.integers(1, 9))
def test_what_is_packed_comes_back_bit_for_bit(data, n_ls, cells):
    contents = data.draw(arrays((n_ls, cells)))
    sumw2 = data.draw(hnp.arrays("<f8", (n_ls, cells)))
    entries = data.draw(hnp.arrays("<f8", n_ls))
    statistics = data.draw(hnp.arrays("<f8", (n_ls, 4)))
    numbers = np.arange(1, n_ls + 1)
    packed = packing.unpack(
        packing.pack(
            {
                "contents": contents,
                "sumw2": sumw2,
                "ls_numbers": numbers,
                "entries": entries,
                "statistics": statistics,
            }
        )
    )
    assert packed.n_ls == n_ls
    again = unpacked(packed, "contents", contents.shape)
    assert again.dtype == contents.dtype
    assert np.array_equal(bits(again), bits(contents))
    assert np.array_equal(bits(unpacked(packed, "sumw2", sumw2.shape)), bits(sumw2))
    small = packed.small()
    assert np.array_equal(small["ls_numbers"], numbers)
    assert np.array_equal(bits(small["entries"]), bits(entries))
    assert np.array_equal(bits(small["statistics"]), bits(statistics))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 255], "u1"),
        ([0, 256], "<u2"),
        ([-1, 127], "i1"),
        ([-1, 128], "<i2"),
        ([0, 65536], "<u4"),
        ([0.5, 1], "<f4"),
        ([0, -0.0], "<f4"),
        ([0.1, 1], "<f8"),
        ([1e300, 1], "<f8"),
        ([np.nan, 1], "<f4"),
    ],
)
def test_doubles_are_narrowed_no_further_than_they_come_back(values, dtype):
    assert packing.narrowed(np.array(values, dtype="<f8")).dtype == np.dtype(dtype)


def test_squares_that_equal_the_counts_cost_only_their_mention():
    counts = np.random.default_rng(1).poisson(30, (20, 5000)).astype("f4")
    columns = {"contents": counts, "ls_numbers": np.arange(20)}
    alone = len(packing.pack(columns))
    assert len(packing.pack({**columns, "sumw2": counts.astype("f8")})) < alone + 50


@given(st.data())
def test_a_changed_byte_is_found(data):
    counts = np.random.default_rng(2).poisson(3, (4, 100)).astype("f4")
    columns = {"contents": counts, "ls_numbers": np.arange(4), "entries": counts.sum(axis=1)}
    damaged = bytearray(packing.pack({k: v.astype("f8") for k, v in columns.items()}))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(packing.DamagedBlockError):
        packing.unpack(bytes(damaged))


@pytest.mark.parametrize("length", [0, 3, 19, 60])
def test_a_cut_block_is_found(length):
    whole = packing.pack({"contents": np.ones((3, 50), "f4"), "ls_numbers": np.arange(3)})
    with pytest.raises(packing.DamagedBlockError, match=r"bytes|checksum"):
        packing.unpack(whole[:length])


def test_a_block_of_another_shape_is_refused():
    whole = packing.pack({"contents": np.ones((3, 50), "f4"), "ls_numbers": np.arange(3)})
    with pytest.raises(packing.DamagedBlockError, match="50 cells in each of 3"):
        packing.unpack(whole).fill("contents", np.empty((3, 51), "f4"))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"ls_numbers": np.arange(2), "contents": np.ones((3, 2))}, "3 rows for 2"),
        ({"ls_numbers": np.arange(2), "contents": np.ones((2, 2), complex)}, "complex128"),
        ({"ls_numbers": np.arange(0), "contents": np.ones((0, 2))}, "no lumisections"),
        (
            {"ls_numbers": np.arange(2), "contents": np.ones((2, 2)), "sumw2": np.ones((2, 3))},
            r"arrays of \[2, 3\] cells",
        ),
        ({"ls_numbers": np.arange(2), "weights": np.ones((2, 2))}, "weights"),
    ],
)
def test_what_no_block_can_hold_is_refused(columns, words):
    with pytest.raises(ValueError, match=words):
        packing.pack(columns)


AXES = [
    Axis.regular(7, -0.1, 0.3, title="x", labels=["a", "", "ü", "\x00", "\ud800", "f", "g"]),
    Axis(np.array([0, 1e-300, 1.0, 3.3]), variable=True),
    Axis(np.linspace(0.1, 0.7, 12)),
    Axis.regular(1, 5, 6, title="\u03b7", name="zaxis"),
]


@pytest.mark.parametrize("axis", AXES)
def test_a_described_axis_comes_back_equal(axis):
    stack = HistogramStack.from_arrays(
        np.ones((1, axis.n_bins)), axis, ls_numbers=[1], run_number=1, me="A/b", title="t\x00"
    )
    described = binning.parse(binning.describe(stack))
    assert described["axes"] == (axis,)
    assert described["title"] == "t\x00"
    assert binning.describe(stack).isascii()


def stored(stack, file_id=1):
    return [
        blocks.StoredBlock(
            p.me, stack.dataset, p.run_number, file_id, p.first_ls, p.description, p.packed
        )
        for p in blocks.pack(stack)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_of_every_kind_comes_back_from_its_blocks(kind, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)
    stack = example(kind, [0, 2, 3, 5, 8, 13, 21])
    rows = stored(stack)
    assert len(rows) > 1
    (again,) = blocks.unpack(rows, np.array([2, 3, 4]))
    assert_equal(again, stack)
    assert again.run_ls_numbers.tolist() == [2, 3, 4]


def test_files_that_interleave_are_put_in_order():
    whole = example("TH2F", range(1, 11))
    rows = stored(whole.select([1, 2, 5, 9]), 1) + stored(whole.select([3, 4, 6, 7, 8, 10]), 2)
    (again,) = blocks.unpack(rows, None)
    assert_equal(again, whole)


def test_parts_of_a_run_in_several_files_are_summed():
    one, two = example("TH1F", [0], 1), example("TH1F", [0], 2)
    (total,) = blocks.unpack(stored(one, 1) + stored(two, 2), None)
    assert np.array_equal(total.contents, one.contents + two.contents)
    assert np.array_equal(total.entries, one.entries + two.entries)


def test_a_sum_of_shorts_stays_full():
    one = example("TH1S", [0], 1)
    one.contents[0, 2] = 32000
    (total,) = blocks.unpack(stored(one, 1) + stored(one, 2), None)
    assert total.contents.dtype == np.int16
    assert total.contents[0, 2] == 32767


def test_another_binning_makes_another_stack():
    one, two = example("TH1F", [1]), example("TH1F", [2], n_bins=8)
    assert len(blocks.unpack(stored(one) + stored(two), None)) == 2


def test_damage_names_element_run_and_file():
    (row,) = stored(example("TH1F", [4]), 77)
    damaged = blocks.StoredBlock(**{**vars(row), "packed": row.packed[:-3]})
    with pytest.raises(packing.DamagedBlockError, match=r"A/b, run 9, .* from 4, file 77"):
        blocks.unpack([damaged], None)
