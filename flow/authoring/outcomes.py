"""What a task raises to end in another way than by returning or failing."""

from __future__ import annotations


class SkipTask(Exception):
    """The task instance is skipped, with this text as its reason (Airflow's
    ``AirflowSkipException``). What is below it is skipped too, unless its trigger rule says
    otherwise."""


class FailTask(Exception):
    """The task instance fails, without another try (Airflow's ``AirflowFailException``)."""
