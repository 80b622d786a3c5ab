"""Floor 2: the decision. Datagram and 4-tuple in, (outcome, backend index) out; no socket, no clock."""
