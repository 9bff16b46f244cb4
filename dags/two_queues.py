"""A chain of four tasks that alternates between two queues, and so between two nodes::

flow-agent --queue q1 --name node1      # on the first node
flow-agent --queue q2 --name node2      # on the second
flow dags trigger two_queues --wait
"""

from flow import DAG, BashOperator, chain

HERE = 'echo "{step} runs on $(hostname) by agent ${{FLOW_AGENT:-unknown}}, from queue {queue}"'


with DAG("two_queues", description="Four steps, alternating between q1 and q2", tags=["example"]):
    steps = [
        BashOperator(task_id=step, queue=queue, bash_command=HERE.format(step=step, queue=queue))
        for step, queue in [("a", "q1"), ("b", "q2"), ("c", "q1"), ("d", "q2")]
    ]
    chain(*steps)
