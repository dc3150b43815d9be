"""The memory backend: simulated containers inside this process.

``MemoryRuntime`` is the runtime, ``behaviour`` the language that says how its containers behave, ``programs`` what they can run.
All state is lost when the process ends.
"""

from vkprovider.backends.memory.behaviour import BEHAVIOUR_ANNOTATION, Behaviour
from vkprovider.backends.memory.config import MemoryConfig
from vkprovider.backends.memory.factory import MemoryProviderFactory
from vkprovider.backends.memory.images import MemoryImageService
from vkprovider.backends.memory.runtime import MemoryRuntime

__all__ = [
    "BEHAVIOUR_ANNOTATION",
    "Behaviour",
    "MemoryConfig",
    "MemoryImageService",
    "MemoryProviderFactory",
    "MemoryRuntime",
]
