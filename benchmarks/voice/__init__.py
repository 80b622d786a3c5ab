"""Voice calls through a NAT that rebinds: qlb compared with two designs that route by client address."""
