"""A report that is made every night, for people in one place of the world.

The schedule is read in the DAG's time zone: it stays half past two in Vienna through the summer.
Each run covers one day, its data interval; what fails is tried again.
"""

from datetime import datetime, timedelta

from flow import DAG, BashOperator

with DAG(
    "nightly_report",
    description="Collects a day's figures and writes a report",
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1),
    timezone="Europe/Vienna",
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5), "owner": "reports"},
    params={"region": "all"},
    tags=["example"],
):
    collect = BashOperator(
        task_id="collect",
        bash_command="echo figures of {{ params.region }} from {{ data_interval_start }}",
        execution_timeout=timedelta(minutes=30),
    )
    write = BashOperator(task_id="write", bash_command="echo report for {{ ds }}")
    collect >> write
