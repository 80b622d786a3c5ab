"""Parts of the portable plane (qlb/dataplane/asyncio.py): sessions' sockets both ways, send queues, sources."""
