"""Bundle in, answers out. Never imports torch, nor `export`."""

SERVICE_NAME = "wander"
