"""A voice agent behind qlb: WebTransport from a browser, through a NAT that rebinds, to one of three servers."""
