"""The keeper: a tiny process beside the agent that starts tasks, times them and kills them.

It is a subreaper: whatever a task forks, detaches or orphans stays below the keeper in the process
tree, so nothing gets away from it while it lives. It learns the lease's deadline from the agent and
needs the agent neither awake nor alive to end what must end. Standard library only, and the light
part of it: it must start in milliseconds and stay small beside the tasks.

``channel`` carries messages and descriptors, ``births`` has a task's process come to be: by
``spawn``, or from a ``standby`` of one of the ``zygotes`` (each a ``zygote``); ``task`` remembers
one, ``cgroups`` makes and ends the cgroup around it where the node has any, ``trees`` knows which
process belongs to which task and ends them, ``loop`` obeys the agent, the deadline and signals.
"""
