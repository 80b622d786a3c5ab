"""Floor 4c: the supervisor: configuration, health, discovery, handover. It forwards no packet itself."""
