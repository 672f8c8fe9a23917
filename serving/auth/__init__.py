"""Who may ask what: bearer keys with roles and rates, and the table of what every route needs."""

from serving.auth.keys import ANONYMOUS, Access, Keys, Principal, Role, authorise, charge, read_keys

__all__ = ["ANONYMOUS", "Access", "Keys", "Principal", "Role", "authorise", "charge", "read_keys"]
