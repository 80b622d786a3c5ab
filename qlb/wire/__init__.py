"""Floor 0: the parts of a datagram that can be read without keys and without state (RFC 8999)."""
