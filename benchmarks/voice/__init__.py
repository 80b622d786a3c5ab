"""Voice calls through a NAT that rebinds, behind qlb and behind the designs that look at addresses."""
