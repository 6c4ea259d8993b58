"""The command `trade-archivist`: what researchers do with an archive, and with a feed.

    trade-archivist verify | cat | normalise | symbols | follow | keys

Exit codes: 0 done (of `verify`: whole), 1 damaged, 2 could not run. Errors are one sentence on stderr.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from .codec import CodecError, MissingPackageError
from .config import FeedConfig
from .events import CHANNELS
from .process import EXIT_CONFIG, EXIT_OK, ConfigError

EXIT_DAMAGED = 1
EXIT_INTERRUPTED = 130

_EXAMPLES = """\
examples:
  trade-archivist verify ./storage-dir
  trade-archivist symbols binance --storage ./storage-dir
  trade-archivist cat --payload ./storage-dir/binance/BTCUSDT/2026-01/*.bz2
  trade-archivist cat --merge ./storage-dir/binance/{BTCUSDT,_}/2026-01/*.bz2 | trade-archivist normalise binance
  trade-archivist follow binance BTCUSDT --channels trade,book
"""

_VERIFY = """\
Each sealed file is proved by its line in the manifest: size, SHA-256, and every block by checksum, counts and ranges;
each open file by its lines. Then all files of an exchange together must hold each number exactly once, but for jumps
at a start and what a manifest names as lost. It may run while the archive is being written.

exit code: 0 whole, 1 damaged (each finding with file, offset and mend), 2 could not run
"""

_CAT = """\
examples:
  trade-archivist cat FILE | jq .                         every record, byte for byte
  trade-archivist cat --payload FILE                      what the exchange sent in data frames, byte for byte
  trade-archivist cat --payload --kind rest FILE          REST answers
  trade-archivist cat --merge DIR/binance/*/2026-01/*.bz2  several files in the order of their numbers (seq)

Without --merge several files follow one another as they are named.
"""

_NORMALISE = """\
The events of a symbol follow from its own records merged by seq with those of no symbol (directory _):

  trade-archivist normalise binance DIR/binance/{BTCUSDT,_}/2026-01/*.bz2    several files are merged by seq
  trade-archivist cat --merge … | trade-archivist normalise binance          or records on stdin

Each line is the body of a live message, byte for byte; with --topics the whole message.
"""

_FOLLOW = """\
Live events as JSON lines, from now on, until Ctrl-C. A symbol's gaps come with any of its channels.

examples:
  trade-archivist follow binance BTCUSDT ETHUSDT
  trade-archivist follow binance BTCUSDT --channels trade --count 10 --events tcp://127.0.0.1:9011
"""

_KEYS = """\
Servers that other machines reach need keys (CURVE: encrypted, and only known clients get in). The first call makes the
server's pair too; each further one, with another --name, one more client's. Nothing is overwritten.

  DIR/server.key               the server's public key: clients need it
  DIR/server.key_secret        stays with the server
  DIR/allowed/NAME.key         clients that may connect
  DIR/clients/NAME.key_secret  belongs on the client's machine
"""


def words(text: str) -> list[str]:
    """`a,b` as a list."""
    return [word for word in text.split(",") if word]


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


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
    main_parser.add_argument("--version", action="version", version=f"trade-archivist {__version__}")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Command)

    def command(name: str, text: str, epilog: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    _add_verify(command("verify", "prove that a storage directory is whole", _VERIFY))
    _add_cat(command("cat", "print the records of archive files (.bz2, .zst, .open) and journals (.records)", _CAT))
    _add_normalise(command("normalise", "turn records into events", _NORMALISE))
    symbols = command("symbols", "list what a storage directory holds", "")
    symbols.add_argument("exchange", nargs="?", help="only this one")
    symbols.add_argument("--storage", type=Path, required=True, metavar="DIR", help="the storage directory")
    symbols.add_argument("--json", action="store_true", help="one JSON object")
    _add_follow(command("follow", "print live events", _FOLLOW))
    keys = command("keys", "make key pairs for a server and a client", _KEYS)
    keys.add_argument("directory", nargs="?", type=Path, default=Path("keys"), metavar="DIR", help="default: keys")
    keys.add_argument("--name", default="client", help="the client's name, that of its files (client)")
    return main_parser


def _add_verify(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("directory", type=Path, metavar="DIR", help="the storage directory, or that of one exchange")
    sub.add_argument("exchanges", nargs="*", metavar="EXCHANGE", help="only these")
    sub.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    default = min(4, os.cpu_count() or 1)
    sub.add_argument("--jobs", type=count, default=default, help=f"files that are decompressed at a time ({default})")


def _add_cat(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("files", nargs="+", type=Path, metavar="FILE")
    sub.add_argument("--payload", action="store_true", help="payloads alone, of received data frames unless --kind")
    sub.add_argument("--kind", type=words, metavar="in,rest,…", help="only records of these kinds")
    sub.add_argument("--conn", type=int, metavar="N", help="only records of this connection")
    sub.add_argument("--symbol", metavar="S", help="only records of this symbol")
    sub.add_argument("--merge", action="store_true", help="merge the files by seq")


def _add_normalise(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("exchange")
    sub.add_argument("files", nargs="*", type=Path, metavar="FILE", help="archive files instead of stdin")
    sub.add_argument("--symbols", type=words, metavar="A,B", help="only these")
    sub.add_argument("--topics", action="store_true", help="each event with its topic and a space in front")


def _add_follow(sub: argparse.ArgumentParser) -> None:
    events = FeedConfig().events
    sub.add_argument("exchange")
    sub.add_argument("symbols", nargs="+", metavar="SYMBOL", help="as the exchange spells it")
    sub.add_argument("--channels", type=words, default=list(CHANNELS), metavar="trade,…", help=", ".join(CHANNELS))
    sub.add_argument("--events", default=events, metavar="ENDPOINT", help=f"the feed's events ({events})")
    sub.add_argument("--count", type=count, metavar="N", help="end after so many events")


def _run(args: argparse.Namespace) -> int:
    """Run the command. What it needs is imported only now: `cat` starts faster without sockets."""
    if args.command == "follow":
        from .cli_live import follow

        return follow(args.exchange, args.symbols, args.channels, args.events, args.count)
    if args.command == "keys":
        from .cli_keys import keys

        return keys(args.directory, args.name)
    if args.command in ("verify", "symbols"):
        from . import cli_storage

        if args.command == "verify":
            return cli_storage.verify(args.directory, args.exchanges, args.jobs, as_json=args.json)
        return cli_storage.symbols(args.storage, args.exchange, as_json=args.json)
    from . import cli_records

    if args.command == "cat":
        select = cli_records.selection(args.kind, args.conn, args.symbol, payload=args.payload)
        return cli_records.cat(args.files, select, merge=args.merge)
    return cli_records.normalise(args.exchange, args.files, args.symbols, topics=args.topics)


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
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
    except CodecError as error:
        return _say(error, EXIT_DAMAGED)
    except OSError as error:
        return _say(f"{error.filename}: {error.strerror}: see that it is there and can be read", EXIT_CONFIG)


def _say(error: object, code: int) -> int:
    print(f"trade-archivist: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
