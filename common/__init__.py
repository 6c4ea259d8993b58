"""Trade-archivist: records, events and archives of crypto exchanges' public trading events."""

__version__ = "0.1.0"
