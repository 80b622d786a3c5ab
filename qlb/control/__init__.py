"""Floor 4: the processes. The supervisor owns configuration, sockets, health, metrics; workers forward."""
