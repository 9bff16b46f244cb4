"""Every change of the schema, in order; ``dispatcher.store.schema`` applies them.

A file here is never edited once it is released. It declares frozen copies of the tables that it
needs and imports nothing of flow's, so that it does the same thing for ever.
"""
