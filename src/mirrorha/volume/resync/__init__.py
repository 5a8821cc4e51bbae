"""Bringing an outdated copy up to date by comparing, while the application writes."""
