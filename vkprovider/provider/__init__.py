"""The contracts between the node and what runs its pods."""
