"""Federations: server and clients in one process, without Flower, message for message."""
