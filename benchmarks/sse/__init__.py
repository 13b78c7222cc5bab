"""The stream of live stock: what a delivery costs, how fresh it is, and what it takes from those who buy."""
