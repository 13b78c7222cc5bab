"""What one hold costs PostgreSQL, what each of its features costs, and how late holds end. See ``__main__``."""
