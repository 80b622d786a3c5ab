"""Floor 3: adapters that make existing QUIC servers issue routable connection IDs, one package for each QUIC stack."""
