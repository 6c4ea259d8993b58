"""The command `export`: an archive as the files of other tools."""

import argparse

from .client import Client, asked_times
from .errors import BadRequestError
from .export_formats import FORMATS
from .exports import Done, export, planned
from .process import EXIT_OK


def run(args: argparse.Namespace) -> int:
    """Run the command. Raises ArchivistError, OSError."""
    format = FORMATS[args.format]
    where = {"storage": args.storage, "server_key": args.server_key, "key": args.key}
    with Client(args.server, **where) as client:
        times = asked_times(args.start, args.end)
        jobs = planned(client, format, args.exchange, args.symbols, args.kinds, *times)
        made = 0
        for done in export(client, format, jobs, args.output):
            print(_text(done), flush=True)
            made += 1
    if not made:
        raise BadRequestError("nothing of that is archived: `trade-archivist coverage` says what is")
    return EXIT_OK


def _text(done: Done) -> str:
    return f"{'made' if done.made else 'kept'} {done.path}: {done.rows} rows, {done.bytes} bytes"
