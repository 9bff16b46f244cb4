"""Arguments that DAG files bring along from Airflow and flow does not use.

Accepted where that changes nothing; refused by name where ignoring them in silence would change
what the DAG does. A value that says "no" to such a feature is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flow.authoring.values import shown


@dataclass(frozen=True)
class Refused:
    """An argument that only *harmless* values are accepted for, and why."""

    reason: str
    harmless: tuple[object, ...] = (None,)
    use: str = ""
    """What to write instead, where there is something."""

    def problem(self, name: str, value: object) -> str | None:
        """The problem with *value*, or ``None``."""
        if any(_same(value, other) for other in self.harmless):
            return None
        allowed = " or ".join(repr(value) for value in self.harmless)
        expected = f"{allowed} for" if allowed else "no"
        remedy = f"use {self.use}" if self.use else "leave it out"
        return f"expected {expected} {name!r}, got {shown(value)}; {self.reason}, {remedy}"


def _same(value: object, other: object) -> bool:
    # The type first: 0 == False, and an array compares to anything with an array.
    return value is other or (isinstance(value, type(other)) and bool(value == other))


#: Documentation, display, and mail that nobody sends: without effect on what runs.
_HARMLESS_TASK = frozenset(
    (
        *("email", "email_on_failure", "email_on_retry", "doc", "doc_md", "doc_json", "doc_yaml"),
        *("doc_rst", "task_display_name", "map_index_template", "logger_name", "append_env"),
        *("show_return_value_in_logs", "ignore_first_depends_on_past", "max_retry_delay"),
        *("provide_context",),
    )
)
_HARMLESS_DAG = frozenset(
    ("doc_md", "dag_display_name", "default_view", "orientation", "owner_links", "full_filepath")
)

_NO_CALLBACKS = Refused("flow calls no callbacks", (None, [], ()))
_NO_PER_DAG_LIMIT = Refused("flow has no limit per task", use="max_active_tasks of the DAG")
_NO_ASSETS = Refused("flow tracks no assets", (None, [], ()))
_NO_SENSORS = Refused("flow has no sensors", ())
_NO_MACROS = Refused("templates have no names of one's own", (None, {}, [], ()), "params")
_ONLY_ITSELF = Refused(
    "a task waits for nothing but itself in the run before", (None, False), "depends_on_past"
)
_NO_DEFERRING = Refused("flow defers no tasks", (None, False))

_REFUSED_TASK: Mapping[str, Refused] = {
    "wait_for_downstream": _ONLY_ITSELF,
    "wait_for_past_depends_before_skipping": _ONLY_ITSELF,
    "weight_rule": Refused("flow compares priority_weight as it is", ("absolute",)),
    "pool": Refused("flow has no pools", use="a queue", harmless=(None, "default_pool")),
    "pool_slots": Refused("flow has no pools", use="a queue", harmless=(None, 1)),
    "sla": Refused("flow watches no SLA", use="execution_timeout"),
    "on_success_callback": _NO_CALLBACKS,
    "on_failure_callback": _NO_CALLBACKS,
    "on_retry_callback": _NO_CALLBACKS,
    "on_execute_callback": _NO_CALLBACKS,
    "on_skipped_callback": _NO_CALLBACKS,
    "pre_execute": _NO_CALLBACKS,
    "post_execute": _NO_CALLBACKS,
    "retry_exponential_backoff": Refused("flow waits retry_delay each time", (None, False, 0)),
    "run_as_user": Refused("flow runs tasks as the agent's user"),
    "executor": Refused("flow has agents and queues", use="queue"),
    "executor_config": Refused("flow has agents and queues", use="queue", harmless=(None, {})),
    "resources": Refused("flow has agents and queues", use="queue", harmless=(None, {})),
    "task_concurrency": _NO_PER_DAG_LIMIT,
    "max_active_tis_per_dag": _NO_PER_DAG_LIMIT,
    "max_active_tis_per_dagrun": _NO_PER_DAG_LIMIT,
    "do_xcom_push": Refused("only Python tasks have results", (None, False)),
    "multiple_outputs": Refused("only Python tasks have results", (None, False)),
    "inlets": _NO_ASSETS,
    "outlets": _NO_ASSETS,
    "params": Refused("all tasks have those of the DAG", (None, {}), "params of the DAG"),
    "templates_dict": Refused("flow renders op_args and op_kwargs", (None, {}), "op_kwargs"),
    "user_defined_macros": _NO_MACROS,
    "task_group": Refused("flow has no task groups"),
    "default_args": Refused("tasks take default_args from their DAG", (None, {})),
    "skip_on_exit_code": Refused("flow skips no tasks, an exit code other than 0 is a failure"),
    "skip_exit_code": Refused("flow skips no tasks, an exit code other than 0 is a failure"),
    "output_encoding": Refused("flow reads output as UTF-8", ("utf-8",)),
    "output_processor": Refused("only Python tasks have results"),
    "env_vars": Refused("flow has its own name for it", use="env"),
    "poke_interval": _NO_SENSORS,
    "timeout": Refused("flow has no sensors", use="execution_timeout for a task", harmless=()),
    "soft_fail": Refused("flow has no sensors", (False,)),
    "mode": _NO_SENSORS,
    "exponential_backoff": _NO_SENSORS,
    "max_wait": _NO_SENSORS,
    "silent_fail": _NO_SENSORS,
    "never_fail": _NO_SENSORS,
    "deferrable": _NO_DEFERRING,
    "start_from_trigger": _NO_DEFERRING,
}

_REFUSED_DAG: Mapping[str, Refused] = {
    "schedule_interval": Refused("flow has its own name for it", use="schedule", harmless=()),
    "timetable": Refused("flow has its own name for it", use="schedule", harmless=()),
    "concurrency": Refused("flow has its own name for it", use="max_active_tasks", harmless=()),
    "dagrun_timeout": Refused("flow does not limit the time of a run", use="execution_timeout"),
    "on_success_callback": _NO_CALLBACKS,
    "on_failure_callback": _NO_CALLBACKS,
    "sla_miss_callback": _NO_CALLBACKS,
    "deadline": Refused("flow watches no deadlines", use="execution_timeout"),
    "template_searchpath": Refused("templates are found in the DAG folder", (None, [], ())),
    "template_undefined": Refused("a name that is not there is always an error"),
    "user_defined_macros": _NO_MACROS,
    "user_defined_filters": _NO_MACROS,
    "jinja_environment_kwargs": Refused("all DAGs have the same templates", (None, {})),
    "render_template_as_native_obj": Refused("templates are rendered to texts", (None, False)),
    "access_control": Refused("flow has no rights per DAG", (None, {})),
    "is_paused_upon_creation": Refused(
        "a DAG is active when first seen", use="`flow dags pause`", harmless=(None, False)
    ),
    "fail_stop": Refused("flow finishes what does not depend on the failure", (None, False)),
    "fail_fast": Refused("flow finishes what does not depend on the failure", (None, False)),
    "max_consecutive_failed_dag_runs": Refused("flow pauses no failing DAG", (None, 0)),
    "auto_register": Refused("every DAG of a file counts", (True,)),
    "disable_bundle_versioning": Refused("a run keeps the version it started with", (False, None)),
    "allowed_run_types": Refused("flow limits no types of runs"),
}


@dataclass(frozen=True)
class Carried:
    """The arguments of one kind of object that Airflow knows and flow does not use."""

    harmless: frozenset[str]
    refused: Mapping[str, Refused]

    def __contains__(self, name: str) -> bool:
        return name in self.harmless or name in self.refused

    def names(self) -> Iterable[str]:
        """All of them."""
        return (*self.harmless, *self.refused)

    def problem(self, name: str, value: object) -> str | None:
        """What is wrong with giving *name* this *value*: ``None`` where it changes nothing."""
        refused = self.refused.get(name)
        return refused.problem(name, value) if refused else None


TASK_ARGUMENTS = Carried(_HARMLESS_TASK, _REFUSED_TASK)
DAG_ARGUMENTS = Carried(_HARMLESS_DAG, _REFUSED_DAG)
