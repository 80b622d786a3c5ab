"""Floor 3: what makes other people's QUIC servers issue routable connection IDs; each stack is one module."""
