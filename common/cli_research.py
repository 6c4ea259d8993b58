"""The commands that ask an archive: `slice`, `book`, `coverage`, `gaps`, `symbols`, `instruments`, `status`.

For people, columns; with `--json` one object. Slices go to stdout, or whole or not at all to a file.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

import orjson

from . import cli_live, cli_storage
from .cli_parser import FORMATS
from .client import Client
from .errors import BadRequestError
from .export_plain import write_csv
from .output import aligned, time_text
from .process import EXIT_OK
from .slices import Slice

DEPTH = 10
"""Levels of a book's side on a terminal."""


def run(args: argparse.Namespace) -> int:
    """Run one of these commands. Raises ArchivistError, ConfigError, OSError."""
    if args.command == "symbols" and args.storage is not None:
        return cli_storage.symbols(args.storage, args.exchange, as_json=args.json)
    progress = None if getattr(args, "output", None) is not None else False
    where = {"storage": args.storage, "server_key": args.server_key, "key": args.key, "progress": progress}
    with Client(args.server, **where, events=getattr(args, "events", None)) as client:
        return _COMMANDS[args.command](client, args)


# -- slice -------------------------------------------------------------------------------------------------------------


def slice_(client: Client, args: argparse.Namespace) -> int:
    """Write a slice. Where it fails, nothing stands under the name of the file."""
    output = None if args.output is None else Path(args.output)
    fills = output is not None and (output.is_dir() or args.output.endswith("/"))
    kind = args.format or ("parquet" if fills else _format_of(output))
    if kind in ("csv", "arrow") and len(args.channels) != 1:
        raise BadRequestError(f"{kind} is of one channel: name it, as --channels trade")
    if (kind == "parquet" and output is None) or (kind == "arrow" and output is None and sys.stdout.isatty()):
        raise BadRequestError(f"{kind} is not for a terminal: name a file with -o FILE")
    asked = client.slice(args.exchange, args.symbols, args.channels, args.start, args.end, by=args.by)
    if kind == "parquet" and output is not None:
        (asked.to_directory if fills else asked.to_parquet)(output)
        return EXIT_OK
    with _opened(output) as out:
        if kind == "csv":
            write_csv(asked.events(), args.channels[0], out)
        elif kind == "arrow":
            _write_arrow(asked, args.channels[0], out)
        else:
            for block in asked.blocks("raw" if kind == "raw" else "json"):
                out.write(block)
    return EXIT_OK


def _format_of(output: Path | None) -> str:
    suffix = "" if output is None else output.suffix.lstrip(".")
    return suffix if suffix in FORMATS else "json"


@contextmanager
def _opened(path: Path | None) -> Iterator[IO[bytes]]:
    """stdout, or a file that has its name once it is whole."""
    if path is None:
        yield sys.stdout.buffer
        return
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_arrow(asked: Slice, channel: str, out: IO[bytes]) -> None:
    from .tables import arrow, schema

    pa = arrow()
    import pyarrow.ipc  # noqa: F401  # pa.ipc

    with pa.ipc.new_stream(out, schema(channel)) as writer:
        for table in asked.batches():
            writer.write_table(table)


# -- what there is -----------------------------------------------------------------------------------------------------


def book(client: Client, args: argparse.Namespace) -> int:
    depth = args.depth or (DEPTH if sys.stdout.isatty() else None)
    found = client.book(args.exchange, args.symbol, args.at, depth)
    if args.json:
        return _print_json(found)
    at = f"at {time_text(found['ts_recv'])}, seq {found['seq']}, last id {found['last_id']}"
    print(f"{args.exchange} {args.symbol} {at}")
    rows = [(*reversed(bid), *ask) for bid, ask in zip_longest(found["bids"], found["asks"], fillvalue=("", ""))]
    print(aligned([("amount", "bid", "ask", "amount"), *rows], frozenset((0, 1, 3))))
    return EXIT_OK


def coverage(client: Client, args: argparse.Namespace) -> int:
    found = client.coverage(args.exchange, args.symbols or None, args.channels, args.start, args.end)
    names = ("symbol", "channel", "start", "end", "whole", "events", "bytes")
    return _print("coverage", names, found, args, {"start": time_text, "end": time_text}, frozenset((5, 6)))


def gaps(client: Client, args: argparse.Namespace) -> int:
    found = client.gaps(args.exchange, args.symbols or None, args.channels, args.start, args.end)
    names = ("symbol", "channels", "gap", "state", "reason", "ts_from", "ts_to")
    return _print("gaps", names, found, args, {"ts_from": time_text, "ts_to": time_text, "channels": ",".join})


def instruments(client: Client, args: argparse.Namespace) -> int:
    found = client.instruments(args.exchange, args.symbols or None, args.at)
    names = ("symbol", "name", "type", "base", "quote", "tick_size", "lot_size", "status")
    return _print("instruments", names, found, args, {})


def symbols(client: Client, args: argparse.Namespace) -> int:
    names = [args.exchange] if args.exchange else [each["name"] for each in client.exchanges()]
    found = [{"exchange": name, "symbol": symbol} for name in names for symbol in client.symbols(name)]
    return _print("symbols", ("exchange", "symbol"), found, args, {})


def status(client: Client, args: argparse.Namespace) -> int:
    found = client.status()
    if args.json:
        return _print_json(found)
    rows = [("exchange", "process", "what", "value")]
    for exchange, about in found["processes"].items():
        rows += [(exchange, *row) for row in _facts(about)]
    rows += [("-", "history", key, _cell(value)) for key, value in (found["history"] or {}).items()]
    print(aligned(rows))
    return EXIT_OK


def follow(client: Client, args: argparse.Namespace) -> int:
    wanted = args.exchange, args.symbols, args.channels, args.start, args.count, args.on_gap_after
    return cli_live.follow(client, *wanted)


def _facts(about: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What an exchange's processes say, one fact a row; what is no process's first."""
    for key, value in about.items():
        if not isinstance(value, dict):
            yield "-", key, _cell(value)
    for process, said in about.items():
        if isinstance(said, dict):
            yield from ((process, key, _cell(value)) for key, value in said.items())


def _print(
    key: str, names: Sequence[str], found: Sequence[dict[str, Any]], args: argparse.Namespace,
    cells: dict[str, Callable[[Any], str]], right: frozenset[int] = frozenset(),
) -> int:  # fmt: skip
    if args.json:
        return _print_json({key: found})
    rows = [tuple(cells.get(name, _cell)(each.get(name)) for name in names) for each in found]
    print(aligned([tuple(names), *rows], right))
    return EXIT_OK


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else str(value)


def _print_json(found: object) -> int:
    print(orjson.dumps(found).decode())
    return EXIT_OK


_COMMANDS: dict[str, Callable[[Client, argparse.Namespace], int]] = {
    "slice": slice_, "book": book, "coverage": coverage, "gaps": gaps, "symbols": symbols,
    "instruments": instruments, "status": status, "follow": follow,
}  # fmt: skip
