"""The command `export`: an archive as the files of other tools."""

import argparse
import time

from .client import Client
from .errors import BadRequestError
from .export_formats import FORMATS
from .exports import Done, export, planned
from .process import EXIT_OK
from .times import parse_time


def run(args: argparse.Namespace) -> int:
    """Run the command. Raises ArchivistError, OSError."""
    format = FORMATS[args.format]
    where = {"storage": args.storage, "server_key": args.server_key, "key": args.key}
    with Client(args.server, **where) as client:
        start, end = (_time(value) for value in (args.start, args.end))
        jobs = planned(client, format, args.exchange, args.symbols, args.kinds, start, end)
        made = 0
        for done in export(client, format, jobs, args.output):
            print(_text(done), flush=True)
            made += 1
    if not made:
        raise BadRequestError("nothing of that is archived: `trade-archivist coverage` says what is")
    return EXIT_OK


def _text(done: Done) -> str:
    return f"{'made' if done.made else 'kept'} {done.path}: {done.rows} rows, {done.bytes} bytes"


def _time(value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return parse_time(value, time.time_ns())
    except (ValueError, OverflowError) as error:
        raise BadRequestError(str(error), "bad_time") from None
