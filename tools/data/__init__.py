"""Modules of prepare_data.py: where text comes from, how it becomes tokens and questions."""
