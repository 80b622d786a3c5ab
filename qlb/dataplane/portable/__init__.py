"""Parts of the portable plane (qlb/dataplane/portable/plane.py): sessions' sockets both ways, send queues, sources."""
