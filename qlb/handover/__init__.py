"""Floor 4a: the handover from one process to another without losing a packet: sockets, memory, service manager."""
