"""Floor 3: data planes. The router decides; a plane receives, sends and counts."""
