"""Sockets: heartbeats, sessions, TLS, HTTP."""
