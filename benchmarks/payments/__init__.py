"""What a payment costs its worker. See ``__main__``."""
