"""The commands ``flow`` and ``flow-agent``: the only place that knows dispatcher and agent both.

Modules here import click and the standard library when loaded; everything else is imported inside
the command that needs it, so that ``flow version`` costs no more than it does.
"""
