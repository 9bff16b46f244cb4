"""Carrying messages: the port, and the transports that keep its promises."""
