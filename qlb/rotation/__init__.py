"""Floor 4a: rotation of CID configs: its phases, its steps, and the edits of the configuration."""
