"""The portable plane, all in Python: plane.py, and its parts for sessions, replies, send queues and sources."""
