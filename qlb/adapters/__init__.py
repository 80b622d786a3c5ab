"""Floor 3: adapters that make existing servers issue routable connection IDs, one package for each QUIC stack."""
