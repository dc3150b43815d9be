"""Pure helpers on Kubernetes objects: no I/O, no asyncio, no clock reads."""
