"""What runs in Airflow's environment: the client that makes DAG runs and reads their times."""
