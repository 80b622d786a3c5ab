"""Floor 3: where backends are, asked of DNS or read from a file that somebody else writes.

A source says which backends there are now; the room above decides what becomes of those that have left. Answers
from outside are not trusted: only addresses in the networks that the operator has named are backends.
"""
