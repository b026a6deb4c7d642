"""Modules of study.py: running what a study's config asks for, and its report."""
