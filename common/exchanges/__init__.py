"""One file per exchange: what it sends and how to ask for it. Pure: no socket, clock, thread or logging."""
