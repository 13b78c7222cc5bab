"""The demonstration video: a storyboard, what is recorded for it, and the film that both are cut to. Nobody types a number."""
