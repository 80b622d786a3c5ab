"""Floor 4b: the engines that forward: worker processes on shared sockets, or the kernel."""
