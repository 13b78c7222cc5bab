"""The authority: PostgreSQL, which alone says yes. The only place that writes stock.

``migrations/`` holds the tables and the functions that decide; ``client`` calls them; ``migrate`` brings a database up to date.
"""
