"""What flow is compared with: each peer in an environment of its own, tuned, behind one protocol.

:mod:`bench.peers.celery` and :mod:`bench.peers.airflow` are contenders; ``celery_side`` and
``airflow_side`` run under the peers' interpreters and import nothing of flow.
"""
