"""What a person does to a running shop, from the terminal: one module per word of the command line.

Law 1: whatever changes something names its operator, its reason and a key, and is done once per key (``operation``). Law 2: a
module's options are parsed by any Python 3.11, so third-party packages are imported where they are used.
"""
