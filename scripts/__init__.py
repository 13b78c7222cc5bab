"""What is made of the engine for people to look at, by running it."""
