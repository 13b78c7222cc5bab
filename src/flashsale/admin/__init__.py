"""What the terminal's words do, for who signs in: an API on loopback and the page that uses it.

Law 1: it adds no deed and no rule of its own; ``flashsale.operate`` does and refuses, for the terminal and the page alike. Law 2:
whatever changes something comes from an operator who is signed in, from this page, with a reason and a key.
"""
