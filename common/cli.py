"""The command `trade-archivist`: what researchers do with an archive, and with what happens now.

    trade-archivist slice | book | coverage | gaps | symbols | instruments | status | follow | import | export | …

Exit codes: 0 done (of `verify`: whole), 1 damaged, 2 could not run. Errors are one sentence on stderr.
"""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

from . import __version__, cli_import
from .cli_parser import add_research, count, words
from .codec import CodecError, MissingPackageError
from .errors import ArchivistError, DamagedError
from .process import EXIT_CONFIG, EXIT_OK, ConfigError
from .times import with_times

EXIT_DAMAGED = 1
EXIT_INTERRUPTED = 130

_EXAMPLES = """\
examples:
  trade-archivist slice binance BTCUSDT --channels trade --start -1h -o FILE.csv
  trade-archivist follow binance BTCUSDT --start -10m
  trade-archivist export parquet binance BTCUSDT --kinds trade,book -o ./export
  trade-archivist import tardis binance_trades_2024-08-08_BTCUSDT.csv.gz \\
      --storage ./imported
  trade-archivist symbols binance --storage ./storage-dir
  trade-archivist verify ./storage-dir

trade-archivist COMMAND --help tells more of each.
"""

_VERIFY = """\
Each sealed file is proved by its line in the manifest: size, SHA-256, and every
block by checksum, counts and ranges; each open file by its lines. Then all
files of an exchange together must hold each number exactly once, but for jumps
at a start and what a manifest names as lost. Tables must be the files that the
manifest names, and hold what the records give; those of an older normaliser are
named with the mend, as no damage. It may run while the archive is being
written.

exit code: 0 whole, 1 damaged (each finding with file, offset and mend), 2 could
not run
"""

_REBUILD = """\
Makes the tables (Parquet) of sealed files from their records, where there are
none, where they are damaged, and where they are of an older normaliser: after
an update that mends an exchange's adapter. Each file is committed by itself:
interrupt it and run it again, it goes on. It may run while the archive is being
written and read.

exit code: 0 done, 1 of some files no tables could be made (each is told), 2
could not run
"""

_CAT = """\
examples:
  trade-archivist cat FILE | jq .                   every record, byte for byte
  trade-archivist cat --payload FILE                what the exchange sent
  trade-archivist cat --payload --kind rest FILE    what it answered over REST
  trade-archivist cat --merge DIR/binance/*/2026-01/*.bz2

Several files follow one another as they are named; with --merge they come in
the order of their numbers (seq).
"""

_NORMALISE = """\
examples:
  trade-archivist normalise binance DIR/binance/{BTCUSDT,_}/2026-01/*.bz2
  trade-archivist cat --merge … | trade-archivist normalise binance

The events of a symbol follow from its own records merged by seq with those of
no symbol (directory _). Each line is the body of a live message, byte for byte;
with --topics the whole message.
"""

_KEYS = """\
Servers that other machines reach need keys (CURVE: encrypted, and only known
clients get in). The first call makes the server's pair too; each further one,
with another --name, one more client's. Nothing is overwritten.

  DIR/server.key               the server's public key: clients need it
  DIR/server.key_secret        stays with the server
  DIR/allowed/NAME.key         clients that may connect
  DIR/clients/NAME.key_secret  belongs on the client's machine
"""


class _Command(argparse.ArgumentParser):
    """Takes options before, between and behind the files."""

    _is_inside = False

    def parse_known_args(  # type: ignore[override]  # typeshed's overloads say the same in four ways
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self._is_inside:
            return super().parse_known_args(args, namespace)
        self._is_inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_inside = False


def parser() -> argparse.ArgumentParser:
    main_parser = argparse.ArgumentParser(
        prog="trade-archivist",
        description="Read, prove and follow archives of exchanges' trading events.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    main_parser.add_argument(
        "-V", "--version", action="version", version=f"trade-archivist {__version__}", help="show the version and exit"
    )
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Command)

    def command(name: str, text: str, epilog: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    _add_verify(command("verify", "prove that a storage directory is whole", _VERIFY))
    _add_rebuild(command("rebuild", "make the tables of a storage directory anew", _REBUILD))
    _add_cat(command("cat", "print the records of files of an archive or a journal", _CAT))
    _add_normalise(command("normalise", "turn records into events", _NORMALISE))
    cli_import.add_arguments(command("import", "take in what other programs recorded", cli_import.EPILOG))
    add_research(command)
    exchanges = command("exchanges", "list the exchanges, their channels, and what proves them", "")
    exchanges.add_argument("--markdown", action="store_true", help="as tables for a document")
    keys = command("keys", "make key pairs for a server and a client", _KEYS)
    keys.add_argument(
        "directory",
        nargs="?",
        type=Path,
        default=Path("keys"),
        metavar="DIR",
        help="where they are kept (default: keys)",
    )
    keys.add_argument("--name", default="client", help="the client's name, that of its files (default: client)")
    return main_parser


def _add_verify(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("directory", type=Path, metavar="DIR", help="the storage directory, or that of one exchange")
    sub.add_argument("exchanges", nargs="*", metavar="EXCHANGE", help="only these (default: all)")
    sub.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    sub.add_argument(
        "--deep", action="store_true", help="walk all events too: what coverage, gaps and bars claim must hold"
    )
    default = min(4, os.cpu_count() or 1)
    jobs = f"files that are decompressed at a time (default: {default})"
    sub.add_argument("--jobs", type=count, default=default, metavar="N", help=jobs)


def _add_rebuild(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("directory", type=Path, metavar="DIR", help="the storage directory, or that of one exchange")
    sub.add_argument("--exchange", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    default = os.cpu_count() or 1
    workers = f"processes at work at a time (default: {default})"
    sub.add_argument("--workers", type=count, default=default, metavar="N", help=workers)
    sub.add_argument("--force", action="store_true", help="also make those anew that are in order")


def _add_cat(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("files", nargs="+", type=Path, metavar="FILE", help="ending in .bz2, .zst, .open or .records")
    sub.add_argument(
        "--payload", action="store_true", help="only their payloads; without --kind those of data that was received"
    )
    sub.add_argument("--kind", type=words, metavar="A,B", help="only records of these kinds, as in,rest,gap")
    sub.add_argument("--conn", type=int, metavar="N", help="only records of this connection")
    sub.add_argument("--symbol", metavar="SYMBOL", help="only records of this symbol")
    sub.add_argument("--merge", action="store_true", help="merge the files by seq")


def _add_normalise(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("exchange", metavar="EXCHANGE", help="for example binance")
    sub.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="files of an archive (default: records on stdin)"
    )
    sub.add_argument("--symbols", type=words, metavar="A,B", help="only these symbols")
    sub.add_argument("--topics", action="store_true", help="each event with its topic and a space in front")


def _run(args: argparse.Namespace) -> int:
    """Run the command. What it needs is imported only now: `cat` starts faster without sockets."""
    if args.command == "keys":
        from .cli_keys import keys

        return keys(args.directory, args.name)
    if args.command == "exchanges":
        from .cli_exchanges import exchanges_table

        return exchanges_table(markdown=args.markdown)
    if args.command == "rebuild":
        from . import cli_rebuild

        return cli_rebuild.run(args.directory, args.exchange, args.workers, force=args.force)
    if args.command == "import":
        return cli_import.run(args)
    if args.command == "verify":
        from . import cli_storage

        return cli_storage.verify(args.directory, args.exchanges, args.jobs, as_json=args.json, deep=args.deep)
    if args.command == "export":
        from . import cli_export

        return cli_export.run(args)
    if args.command not in ("cat", "normalise"):
        from . import cli_research

        return cli_research.run(args)
    from . import cli_records

    if args.command == "cat":
        select = cli_records.selection(args.kind, args.conn, args.symbol, payload=args.payload)
        return cli_records.cat(args.files, select, merge=args.merge)
    return cli_records.normalise(args.exchange, args.files, args.symbols, topics=args.topics)


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(with_times(sys.argv[1:] if argv is None else argv))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path need not be UTF-8
    try:
        code = _run_told(args)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads: nothing to say at the exit
        return EXIT_OK
    return code


def _run_told(args: argparse.Namespace) -> int:
    """Run the command; what goes wrong is told in one sentence."""
    try:
        return _run(args)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (ConfigError, MissingPackageError) as error:
        return _say(error, EXIT_CONFIG)
    except (CodecError, DamagedError) as error:
        return _say(error, EXIT_DAMAGED)
    except ArchivistError as error:
        return _say(error, EXIT_CONFIG)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "make room and run it again" if full else "see that it is there and can be read"
        return _say(f"{error.filename}: {error.strerror}: {mend}", EXIT_CONFIG)


def _say(error: object, code: int) -> int:
    print(f"trade-archivist: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
