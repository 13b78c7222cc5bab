"""One question per figure, which is its title. Everything drawn is in results.json or in the tables of the run."""
