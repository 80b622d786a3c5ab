"""Floor 4: something to try qlb with: HTTP/3 backends, a client that changes its address, and a driver of many."""
