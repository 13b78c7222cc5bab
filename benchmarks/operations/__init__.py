"""What it costs that somebody looks at the operations page."""
