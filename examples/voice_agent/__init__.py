"""A voice agent behind qlb: WebTransport from a browser, through a NAT, to one of three servers."""
