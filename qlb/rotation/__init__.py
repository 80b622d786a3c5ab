"""Floor 4a: the rotation of CID configs: its phases, its steps, and its edits of the configuration."""
