"""`wander bench`: arithmetic alone, the generators against real servers, the command."""
