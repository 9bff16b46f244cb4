"""One training step on the GPU box, with CPU steps around it.

Nodes with a GPU serve the queue ``gpu`` (``flow-agent --queue gpu``), all others ``default``. The
training task loses its node at most to another try: its result is taken once.
"""

from datetime import timedelta

from flow import DAG, BashOperator, task

with DAG("train", description="Prepare, train on queue gpu, report", tags=["example"]):
    prepare = BashOperator(
        task_id="prepare", bash_command='echo "preparing data on $FLOW_AGENT"', retries=2
    )

    @task(queue="gpu", execution_timeout=timedelta(hours=6), on_agent_lost="rerun")
    def train(epochs: int) -> dict[str, float]:
        """Stands for an hour of torch: the loss halves with every epoch."""
        loss = 1.0
        for epoch in range(epochs):
            loss /= 2
            print(f"epoch {epoch + 1}: loss {loss}")
        return {"loss": loss}

    @task
    def report(result: dict[str, float]) -> None:
        """Whether it was worth it."""
        print(f"final loss {result['loss']:.4f}")

    trained = train(5)
    prepare >> trained
    report(trained)
