"""How one process follows another without a loss: sockets, what was said and found, words with a service manager."""
