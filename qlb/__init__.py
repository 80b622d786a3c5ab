"""qlb: a QUIC load balancer without shared state (draft-ietf-quic-load-balancers).

Two halves that share one codec: the edge daemon (``qlb run config.yaml``) and the connection ID library
that backends import (``from qlb.cid import ...``). Importing this package imports nothing else.
"""

__version__ = "0.1.0"
