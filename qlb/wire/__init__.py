"""Floor 0: what a datagram says of itself, without keys and without state (RFC 8999)."""
