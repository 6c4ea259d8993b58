"""The formats of exports, by name. A format's file says what it writes; `exports.py` does the rest."""

from . import export_freqtrade, export_hftbacktest, export_nautilus, export_plain, export_tardis
from .exports import Format

_FILES = (export_plain, export_tardis, export_freqtrade, export_hftbacktest, export_nautilus)
FORMATS: dict[str, Format] = {format.name: format for file in _FILES for format in file.FORMATS}
