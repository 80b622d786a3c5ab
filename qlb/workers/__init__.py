"""Floor 4b: the engines that forward packets: worker processes with shared sockets, or the kernel."""
