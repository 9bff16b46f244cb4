"""The rules about runs, task instances, agents and leases: pure, no I/O, time is a parameter."""
