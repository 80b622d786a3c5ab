"""What forwards, as the supervisor sees it: an engine, which is worker processes on its sockets, or the kernel."""
