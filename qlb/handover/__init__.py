"""Floor 4a: one process replaces another without losing a packet: sockets, memory, service manager."""
