"""Voice calls through a NAT that rebinds, through qlb and through two designs that route by client address."""
