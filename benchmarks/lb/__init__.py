"""What a request costs the balancer, beside HAProxy, nginx and what others would build in Python. Started by ``./flash bench lb``."""
