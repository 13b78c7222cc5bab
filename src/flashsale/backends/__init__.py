"""The interchangeable purchase backends: same URLs, same JSON, same verdicts. Neither imports the other."""
