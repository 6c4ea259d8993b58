"""Stand in for an exchange: its own WebSocket and REST protocol, out of a recording, an archive or a generator.

python -m processes.standin EXCHANGE --port 9443 [--recording FILE ...] [--speed 1|N|max] [--loop] [fault options]

TCP    binds   --host:--port        the exchange's own paths (WebSocket, REST), /standin/status, /standin/fault
files  reads   --recording          or the exchange's folder in --archive
file   writes  --sent               one JSON line per data frame sent
"""

import sys
from collections.abc import Sequence

from common import exchanges, standin_options
from common.process import ConfigError, Service, run_service
from common.standin_binance import BinanceStandin
from common.standin_recorded import RecordedStandin


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    return run_service("standin", lambda: _made(standin_options.parse(arguments)))


def _made(options: standin_options.Options) -> Service:
    """Binance spot has its generator and answers of its own; every other exchange is what was recorded of it."""
    if options.exchange == "binance":
        return BinanceStandin(options)
    try:
        dialect = exchanges.dialect(options.exchange)
    except LookupError as error:
        raise ConfigError(str(error)) from None
    return RecordedStandin(options, exchanges.get(options.exchange), dialect)


if __name__ == "__main__":
    sys.exit(main())
