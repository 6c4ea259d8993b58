"""Archives of the original trade-archivist: encoded here, read by the code; exact, or an error with its place."""

import bz2
import struct
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import import_archivist
from common.event_record import read as read_event
from common.exchanges import get
from common.foreign_file import ForeignFileError
from common.import_format import Item

NAME = "ETHBTC-2023-02-27-08-1677485354492.bz2"
MS = 1_677_485_354_492
SNAPSHOT, UPDATE = 0, 1
many = settings(max_examples=60, deadline=None, derandomize=True)


class Block(NamedTuple):
    """`levels` of price, count and amount, as texts of digits; signs as they stand in the file."""

    type: int
    ms: int
    levels: list[tuple[str, int, str]]


def decimal(text: str) -> bytes:
    sign, digits, exponent = Decimal(text).as_tuple()
    assert isinstance(exponent, int)
    return struct.pack("<I", sign << 31 | -exponent << 16) + int("".join(map(str, digits))).to_bytes(12, "little")


def archivist(block: Block) -> bytes:
    levels = b"".join(
        decimal(price) + struct.pack("<I", count) + decimal(amount) for price, count, amount in block.levels
    )
    return struct.pack("<BBqI", 1, block.type, block.ms, len(block.levels)) + levels


def py_struct(block: Block) -> bytes:
    levels = b"".join(struct.pack("dId", float(price), count, float(amount)) for price, count, amount in block.levels)
    return struct.pack("BdI", block.type, block.ms / 1000, len(block.levels)) + levels


def written(directory: Path, data: bytes, name: str = NAME) -> Path:
    path = directory / name
    path.write_bytes(bz2.compress(data))
    return path


def items(path: Path, symbol: str | None = None) -> list[Item]:
    return list(import_archivist.read(path, get("binance"), symbol))


def books(path: Path) -> list[dict[str, Any]]:
    """What the records say; each is an event that `normalise` takes."""
    found = items(path)
    assert all(read_event(item.channel, item.payload) is not None for item in found)
    return [orjson.loads(item.payload) for item in found]


digits = st.decimals(0, 10**9, places=8, allow_nan=False).map(lambda number: f"{number:f}")
short = st.integers(0, 10**7).map(lambda number: str(Decimal(number) / 1000))
sides = st.sampled_from(["bid", "ask"])
many_levels = st.lists(
    st.tuples(digits | short, st.integers(1, 2**32 - 1) | st.just(0), digits | short, sides), max_size=6
)


def signed(levels: list[tuple[str, int, str, str]], *, is_whole: bool) -> list[tuple[str, int, str]]:
    """As the original wrote them: asks of a whole book by their amounts, of an update by their prices."""
    found = []
    for price, count, amount, side in levels:
        sign = "-" if side == "ask" else ""
        found.append((price, count, sign + amount) if is_whole else (sign + price, count, amount))
    return found


@many
@given(st.booleans(), st.lists(many_levels, min_size=1, max_size=6), st.sampled_from([SNAPSHOT, UPDATE]), st.data())
def test_blocks_when_encoded_in_either_layout_then_are_read_exactly(
    tmp_path_factory: pytest.TempPathFactory, is_decimal: bool, blocks: list[Any], first: int, data: st.DataObject
) -> None:
    """The first block is a whole book, whatever type it says; later ones are updates, or snapshots that say so."""
    kinds = [first, *data.draw(st.lists(st.sampled_from([SNAPSHOT, UPDATE]), min_size=5, max_size=5))]
    encode = archivist if is_decimal else py_struct
    text = str if is_decimal else lambda digits: repr(float(digits))
    raw, wanted = b"", []
    for place, (levels, kind) in enumerate(zip(blocks, kinds, strict=False)):
        is_whole = kind == SNAPSHOT or place == 0
        raw += encode(Block(kind, MS + place, signed(levels, is_whole=is_whole)))
        book: dict[str, Any] = {"ts_event": None, "type": "snapshot" if is_whole else "delta"}
        for side in ("bid", "ask"):
            own = [level for level in levels if level[3] == side]
            book[f"{side}s"] = [[text(price), text(amount) if count else "0"] for price, count, amount, _ in own]
            book[f"{side}_counts"] = [count for _, count, _, _ in own]
        wanted.append(book)
    path = written(tmp_path_factory.mktemp("archivist"), raw)
    assert books(path) == wanted
    assert [item.ts for item in items(path)] == [(MS + place) * 10**6 for place in range(len(wanted))]


def test_the_bytes_of_a_head_and_a_level_are_read_as_the_original_wrote_them(tmp_path: Path) -> None:
    head = bytes.fromhex("00 00 00 00 00 00 00 00 dd 47 b2 f9 7b 71 d8 41 39 30 00 00")
    level = bytes.fromhex("00 00 00 00 80 1c c8 40 d2 04 00 00 00 00 00 00 00 00 00 00 80 1c c8 40")
    (item,) = items(written(tmp_path, head + 12_345 * level))
    book = orjson.loads(item.payload)
    assert item.ts // 10**6 == 1_640_361_958_785 and book["type"] == "snapshot" and item.symbol == "ETHBTC"
    assert book["bids"] == [["12345.0", "12345.0"]] * 12_345 and book["bid_counts"] == [1_234] * 12_345


def test_a_time_in_seconds_when_it_has_more_than_ms_then_keeps_the_digits_of_its_repr(tmp_path: Path) -> None:
    data = struct.pack("BdI", 0, 1_640_361_958.7856362, 0)
    assert [item.ts for item in items(written(tmp_path, data))] == [1_640_361_958_785_636_200]


def test_a_file_of_updates_of_the_second_layout_when_it_begins_as_the_first_then_is_told_by_what_makes_sense(
    tmp_path: Path,
) -> None:
    blocks = [Block(UPDATE, MS + number, [("-1.5", 2, "3.25")]) for number in range(5)]
    second = b"".join(map(py_struct, blocks))
    assert second.startswith(b"\x01\x00") and archivist(Block(SNAPSHOT, MS, [])).startswith(b"\x01\x00")
    assert [book["asks"] for book in books(written(tmp_path, second))] == [[["1.5", "3.25"]]] * 5
    first = b"".join(archivist(block._replace(type=SNAPSHOT)) for block in blocks)
    assert [book["asks"] for book in books(written(tmp_path, first))] == [[["1.5", "3.25"]]] * 5


def test_an_update_with_asks_by_their_amounts_then_is_a_whole_book_that_was_begun_anew(tmp_path: Path) -> None:
    blocks = [Block(UPDATE, MS + number, [("2", 1, "1"), ("3", 1, "-1")]) for number in range(2)]
    found = books(written(tmp_path, b"".join(map(archivist, blocks))))
    assert [book["type"] for book in found] == ["snapshot", "snapshot"]


def test_a_first_block_with_asks_by_their_prices_then_is_no_whole_book(tmp_path: Path) -> None:
    found = books(written(tmp_path, archivist(Block(UPDATE, MS, [("2", 1, "1"), ("-3", 1, "1")]))))
    assert [book["type"] for book in found] == ["delta"]


@pytest.mark.parametrize("encode", [archivist, py_struct])
def test_a_file_when_cut_anywhere_then_is_an_error_with_the_offset_of_the_block(tmp_path: Path, encode: Any) -> None:
    blocks = [encode(Block(UPDATE, MS + number, [("1.5", 2, "3.25")] * 2)) for number in range(3)]
    raw, size = b"".join(blocks), len(blocks[0])
    for end in range(1, len(raw)):
        path = written(tmp_path, raw[:end])
        if end % size == 0:
            assert len(items(path)) == end // size
        else:
            with pytest.raises(ForeignFileError, match=rf"{NAME} offset {end // size * size} .*: torn"):
                items(path)


def test_a_file_whose_compression_is_torn_or_none_then_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = written(tmp_path, archivist(Block(UPDATE, MS, [("1.5", 2, "3.25")] * 50)))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ForeignFileError, match=rf"{NAME} offset \d+ .*: torn"):
        import_archivist.exchanges(path)
    path.write_bytes(b"no bz2 at all")
    with pytest.raises(ForeignFileError, match=rf"{NAME} offset 0 .*: not bz2"):
        import_archivist.exchanges(path)


@pytest.mark.parametrize("junk", [b"\n", bytes(512), b"junk behind it", b"BZh9 no stream"])
@pytest.mark.parametrize("count", [1, 10])
def test_a_file_with_something_behind_its_streams_then_is_an_error_with_its_offset(
    tmp_path: Path, junk: bytes, count: int
) -> None:
    raw = b"".join(archivist(Block(UPDATE, MS + number, [("1.5", 2, "3.25")])) for number in range(count))
    path = written(tmp_path, raw)
    path.write_bytes(path.read_bytes() * 2)  # two streams are one file
    assert len(items(path)) == 2 * count
    path.write_bytes(path.read_bytes() + junk)
    with pytest.raises(ForeignFileError, match=rf"{NAME} offset {2 * len(raw)} decompressed: .*copy the file again"):
        items(path)


@many
@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_any_bytes_give_blocks_or_an_error_with_an_offset(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, is_decimal: bool, goes_on: bool
) -> None:
    begin = (archivist if is_decimal else py_struct)(Block(UPDATE, MS, [("1.5", 2, "3.25")])) if goes_on else b""
    path = written(tmp_path_factory.mktemp("archivist"), begin + noise)
    try:
        assert len(items(path)) >= goes_on
    except ForeignFileError as error:
        assert f"{NAME} offset " in str(error)


@pytest.mark.parametrize(
    "block",
    [
        struct.pack("<BBqI", 2, 1, MS, 0),
        struct.pack("<BBqI", 1, 2, MS, 0),
        struct.pack("<BBqI", 1, 1, MS * 1000, 0),
        struct.pack("<BBqI", 1, 1, MS, 2**32 - 1),
        struct.pack("<BBqI", 1, 1, MS, 1) + b"\xff" * 36,
        struct.pack("BdI", 1, float("nan"), 0),
        struct.pack("BdI", 1, MS / 1000, 1) + struct.pack("dId", float("inf"), 1, 1.0),
    ],
)
def test_a_block_that_makes_no_sense_then_is_an_error_wherever_it_stands(tmp_path: Path, block: bytes) -> None:
    block += bytes(20)
    with pytest.raises(ForeignFileError, match=rf"{NAME} offset 0 .*not of the original"):
        import_archivist.exchanges(written(tmp_path, block))
    before = b"".join(archivist(Block(UPDATE, MS + number, [])) for number in range(10))
    with pytest.raises(ForeignFileError, match=rf"{NAME} offset {len(before)} .*not of the original"):
        items(written(tmp_path, before + block))


def test_what_is_compressed_a_million_times_then_takes_no_memory(tmp_path: Path) -> None:
    path = written(tmp_path, py_struct(Block(UPDATE, MS, [])) + bytes(32 * 1024**2))
    tracemalloc.start()
    with pytest.raises(ForeignFileError, match="offset 20 "):
        items(path)
    assert path.stat().st_size < 1_000 and tracemalloc.get_traced_memory()[1] < 4 * 1024**2
    tracemalloc.stop()


def test_a_file_without_a_symbol_in_its_name_then_needs_one_said(tmp_path: Path) -> None:
    path = written(tmp_path, archivist(Block(UPDATE, MS, [])), "book.bz2")
    with pytest.raises(ForeignFileError, match="--symbol"):
        items(path)
    assert items(path, "ETHBTC")[0].symbol == "ETHBTC"
