"""Modules of report.py and study.py: runs, evaluations, tables and plots."""
