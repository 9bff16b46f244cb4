"""What runs in Celery's environment: the app with its tasks, and the client that gives orders."""
