"""Floor 4a: a demo of qlb: HTTP/3 backends, a client that changes its address, and a driver of many clients."""
