"""An asyncio kit that knows nothing of Kubernetes: tasks, keyed workers, backoff, clock, broadcast."""
