"""What people call symbols, as the exchange spells them: unified names and patterns, by history's catalogue."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import cast

from .adapter import Adapter
from .errors import BadRequestError
from .exchanges import get as adapter_of
from .naming import is_own, may_be_name
from .transport import Transport, request


def spelled(transport: Transport, exchange: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """The exchange's own symbols that own names, unified names (BTC-USDT-PERP) and patterns (*-USDT-PERP) mean.

    Nobody is asked where all are the exchange's own. Raises BadRequestError where one means nothing, or several.
    """
    adapter = cast(Adapter, adapter_of(exchange))
    if all(is_own(adapter, text) or not may_be_name(text) for text in wanted):
        return tuple(wanted)
    archived = request(transport, {"op": "symbols", "exchange": exchange})[0]["symbols"]
    catalogue = request(transport, {"op": "instruments", "exchange": exchange})[0]["instruments"]
    found: dict[str, None] = {}
    for text in wanted:
        meant = [text]
        if text not in archived and not is_own(adapter, text):
            meant = sorted(each["symbol"] for each in catalogue if fnmatchcase(each["name"], text))
        if not meant:
            message = f"{text} means no instrument of {exchange}: `trade-archivist instruments {exchange}` lists them"
            raise BadRequestError(message, "unknown_symbol")
        if len(meant) > 1 and not {"*", "?"} & set(text):
            raise BadRequestError(f"{text} means {' and '.join(meant)}: name one of them", "unknown_symbol")
        found |= dict.fromkeys(meant)
    return tuple(found)
