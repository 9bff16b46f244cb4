"""What a DAG file is written with: DAGs, operators, edges, and how a file is read into data.

Standard library only, Python 3.10 or later: it runs under the user's interpreter.
"""
