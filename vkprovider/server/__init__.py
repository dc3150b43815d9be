"""The kubelet HTTPS API."""
