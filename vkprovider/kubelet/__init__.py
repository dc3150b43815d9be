"""Kubelet behaviour over a ContainerRuntime."""
