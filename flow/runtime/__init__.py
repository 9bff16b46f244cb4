"""The task's side of a Python task, under the user's interpreter: ``start.py`` runs one.

Standard library only, Python 3.10 or later, and jinja2 from wherever it can be had.
"""
