"""XDP programs in network namespaces: objects, packets, scenes."""
