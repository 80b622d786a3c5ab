"""Servers that answer for DNS and for a Kubernetes API."""
