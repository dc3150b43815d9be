"""The cluster side of a node: node object, lease, pod source, pod workers, statuses, events, orphans."""
