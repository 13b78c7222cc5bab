"""A simulated gateway: a bank of its own, with its own durable books. The engine knows it through its wire alone."""
