"""Floor 3: sources of backends: DNS, Kubernetes, or a file that another program writes.

A source returns the backends that exist now. The daemon decides what happens to those that have left. Answers from
outside are not trusted: only addresses within the networks that the operator has named can be backends.
"""
