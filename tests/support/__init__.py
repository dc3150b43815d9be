"""What the tests share: a real control plane, an engine, images, agents, and pytest's plumbing. Not shipped."""
