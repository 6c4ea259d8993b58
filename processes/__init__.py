"""The daemons: one module, one process."""
