"""The formats of exports, by name. A format's file says what it writes; `exports.py` does the rest."""

from . import export_plain, export_tardis
from .exports import Format

FORMATS: dict[str, Format] = {format.name: format for format in (*export_plain.FORMATS, *export_tardis.FORMATS)}
