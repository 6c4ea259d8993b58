"""Archives of random record logs: several files a symbol, some sealed, some with tables, the last ones open."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import orjson

from common import exchanges
from common.adapter import version
from common.answers import Answers
from common.archive import ArchiveWriter
from common.disk import Disk
from common.normaliser import Normaliser
from common.process import boot_id
from common.sealing import seal
from common.tabling import tabulate
from tests.record_logs import ADAPTER, Log

NORMALISER = version(exchanges.get("binance"))

Ask = Callable[..., tuple[dict[str, Any], list[bytes]]]


class Logged:
    """A storage directory with the records of a log, taken up to `at`, and `Answers` out of it."""

    def __init__(self, storage: Path, log: Log, *, tables: float = 0.7) -> None:
        self.storage, self.log = storage, log
        self._tables, self._random = tables, Random(len(log.lines))
        self._writer = ArchiveWriter(Disk(), storage / "binance", boot_id=boot_id(), rotate_min_bytes=1)
        self._writer._rotate_ns = 120  # a log's clock goes on by nanoseconds
        self._writer.open(None)
        self._taken = 0
        self.answers = Answers(storage)

    def take(self, count: int | None = None) -> None:
        """Some more records, or all that are left."""
        end = len(self.log.lines) if count is None else self._taken + count
        position = self._writer.position
        for line, record in zip(self.log.lines[self._taken : end], self.log.records[self._taken : end], strict=True):
            if record.seq != position + 1:
                self._writer.hole(record.seq, position)
            self._writer.take([line])
            position = record.seq
        self._taken = min(end, len(self.log.lines))
        self._writer.flush()

    def seal(self) -> int:
        """Seal what is full; returns how many files."""
        self._writer.sync(lambda: None)
        paths = self._writer.sealable()
        for path in paths:
            codec = self._random.choice(["bz2", "zstd"])
            with_tables = self._random.random() < self._tables
            seal(
                Disk(),
                path,
                codec,
                3,
                2_000,
                NORMALISER,
                (lambda path: tabulate(path, ADAPTER)) if with_tables else None,
            )
        return len(paths)

    def close(self) -> None:
        self._writer.close()

    def reply(self, **question: Any) -> tuple[dict[str, Any], list[bytes]]:
        head, *payload = self.answers.answer(orjson.dumps({"exchange": "binance", **question}))
        return orjson.loads(head), payload

    def ask(self, **question: Any) -> tuple[dict[str, Any], list[bytes]]:
        header, payload = self.reply(**question)
        assert "error" not in header, header["error"]
        return header, payload

    def error(self, **question: Any) -> tuple[str, str]:
        header, payload = self.reply(**question)
        assert payload == [], "an error never looks like data"
        return header["error"]["code"], header["error"]["message"]

    def slice(self, *, fresh: float = 0.0, **question: Any) -> bytes:
        """All pages of a slice. With `fresh`, now and then another server answers the next page."""
        payload, token, events, records, covered = b"", None, 0, 0, None
        while True:
            if self._random.random() < fresh:
                self.answers = Answers(self.storage)
            header, (page,) = self.ask(op="slice", **question, **({"next": token} if token else {}))
            assert page.count(b"\n") == header["events" if question.get("format") != "raw" else "records"]
            assert covered in (None, header["after"]), "pages follow one another without a hole"
            payload, token, covered = payload + page, header["next"], header["covered"]
            events, records = events + header["events"], records + header["records"]
            if token is None:
                assert header["total"] == {"events": events, "records": records}
                assert covered == header["to"]
                return payload

    # -- what it must be -------------------------------------------------------------------------------------------

    def whole(self, symbols: list[str]) -> dict[int, list[bytes]]:
        """What was live, by the number of the record: bodies in the order of (topic, part)."""
        normaliser = Normaliser(exchanges.get("binance"), symbols)
        found = {}
        for record in self.log.records:
            messages = normaliser.messages(record)
            found[record.seq] = sorted(messages, key=lambda message: message.partition(b" ")[0])
        return found
