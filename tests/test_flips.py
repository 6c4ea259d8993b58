"""Random bit flips: each is found by `verify`, or changes no answer. All 2,000: `python -m tests.flips`."""

import os
import secrets
from pathlib import Path

import pytest

from common import checked
from tests.flips import UNREAD_PART, run, run_behind

FLIPS = 300


def test_flips_when_any_bit_of_any_file_flips_then_verify_finds_it_or_no_answer_changes(tmp_path: Path) -> None:
    seed = int(os.environ.get("FLIPS_SEED", secrets.randbits(32)))
    print(f"FLIPS_SEED={seed}")
    failed, counts = run(tmp_path / "storage", int(os.environ.get("FLIPS", FLIPS)), seed)
    assert failed == []
    assert {kind.split(" ")[0] for kind in counts} >= {
        ".bz2",
        ".zst",
        ".parquet", ".open", ".records", "manifest.jsonl", "archived.json", ".synced.json",
        "journal.json", ".marks", "imported.jsonl", "commit.json",
    }  # fmt: skip
    assert counts["imported.jsonl found"]
    assert counts["commit.json found"]


def test_flips_when_any_bit_of_an_unread_journal_flips_then_verify_tells_it_or_no_answer_changes(
    tmp_path: Path,
) -> None:
    seed = int(os.environ.get("FLIPS_SEED", secrets.randbits(32)))
    print(f"FLIPS_SEED={seed}")
    failed, counts = run_behind(tmp_path / "storage", int(os.environ.get("FLIPS", FLIPS)) // UNREAD_PART, seed)
    assert failed == []
    assert counts[".records unread, named as lost"]
    assert counts[".marks unread, found"]


@pytest.mark.parametrize("text", [b'{"a":1,"b":[1,2]}', b'{"a":1,"line_crc32":7}x'])
def test_checked_when_there_is_no_checksum_then_the_text_is_read_as_it_is(text: bytes) -> None:
    assert checked.is_intact(text)
    assert not checked.has_checksum(text)


def test_checked_when_any_bit_flips_then_the_text_is_refused_or_says_the_same() -> None:
    data = {"complete": 17, "facts": {"a": [1, 2], "b": "text"}}
    text = checked.dumps(data)
    assert checked.loads(text) == data
    for bit in range(8 * len(text)):
        broken = bytearray(text)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            said = checked.loads(bytes(broken))
        except ValueError:
            continue
        assert {key: said[key] for key in data} == data
