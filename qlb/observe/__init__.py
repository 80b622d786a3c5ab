"""Floor 3: the views of a running daemon: metrics, status, notices and logs."""
