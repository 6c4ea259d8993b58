"""What people call symbols, as the exchange spells them, for who subscribes to them: history knows."""

from collections.abc import Sequence
from itertools import groupby
from typing import cast

from .adapter import Adapter
from .exchanges import get as adapter_of
from .exchanges import names
from .naming import is_own, may_be_name
from .transport import Transport, request


def spelled(transport: Transport, exchange: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """The exchange's own symbols that own names, unified names (BTC-USDT-PERP) and patterns (*-USDT-PERP) mean.

    Nobody is asked where all are the exchange's own. Raises BadRequestError where one means nothing, or several.
    """
    if exchange not in names():
        return tuple(wanted)  # history answers for what there is
    adapter = cast(Adapter, adapter_of(exchange))
    symbols: dict[str, None] = {}
    for are_names, texts in groupby(wanted, lambda text: may_be_name(text) and not is_own(adapter, text)):
        found = list(texts)
        if are_names:  # of all that follow one another at once: for each answer the catalogue is read
            found = request(transport, {"op": "symbols", "exchange": exchange, "symbols": found})[0]["symbols"]
        symbols |= dict.fromkeys(found)
    return tuple(symbols)
