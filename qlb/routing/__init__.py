"""Floor 2: the decision. A datagram and its 4-tuple become (outcome, backend index), without a socket or a clock."""
