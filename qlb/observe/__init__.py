"""Floor 3: what people see of a running daemon: metrics, status, logs."""
