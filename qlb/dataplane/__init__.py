"""Floor 3: data planes. The router decides, a plane acts: it alone receives, sends and counts."""
