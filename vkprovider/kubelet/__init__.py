"""The behaviour of a kubelet over any ``ContainerRuntime``.

``RuntimePodProvider`` (``provider.py``) is the way in. What to do and what to report is decided by pure functions (``actions.py``,
``status.py``, ``termination.py``, ``gc.py``); ``sync.py`` and the provider carry it out.
"""
