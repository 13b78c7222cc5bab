"""A load balancer for HTTP/1.1. It knows HTTP, and nothing of what the servers behind it sell."""
